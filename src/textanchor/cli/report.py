"""`textanchor report`: the HTML page of a run that has a report.json, or of a measurement that has a geometry.json."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder with a report.json or a geometry.json: some run's output."),
    ],
) -> None:
    """Write DIR/report.html from DIR/report.json, or DIR/geometry.html from DIR/geometry.json; no network is needed."""
    from textanchor.outputs import claimed
    from textanchor.report.build import build_report
    from textanchor.report.geometry import build_geometry_page

    with claimed(folder):
        has_geometry = (folder / "geometry.json").is_file()
        if has_geometry:
            typer.echo(f"{build_geometry_page(folder / 'geometry.json', folder / 'geometry.html')}")
        if (folder / "report.json").is_file() or not has_geometry:
            typer.echo(f"{build_report(folder / 'report.json', folder / 'report.html')}")
