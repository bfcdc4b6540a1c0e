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
    from textanchor.report.documents import GEOMETRY, REPORT

    with claimed(folder):
        there = [document for document in (GEOMETRY, REPORT) if (folder / document.file).is_file()]
        for document in there or [REPORT]:
            typer.echo(f"{document.build(folder / document.file, folder / document.page)}")
