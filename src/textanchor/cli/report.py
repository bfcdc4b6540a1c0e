"""`textanchor report`: the HTML page of a run that has a report.json."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with a report.json, such as the demo's output.")
    ],
) -> None:
    """Write DIR/report.html, one page that needs no network, from DIR/report.json."""
    from textanchor.report.build import build_report

    page = folder / "report.html"
    build_report(folder / "report.json", page)
    typer.echo(f"{page}")
