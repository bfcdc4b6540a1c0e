"""A comparison's summary as files and on the terminal."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as TerminalTable

from textanchor.experiment.reading.summary import summarise_runs
from textanchor.files import write_json, write_text
from textanchor.records import RunRecord
from textanchor.report.page import Table
from textanchor.report.pages.compare import compare_tables, render_compare

SUMMARY, PAGE = "summary.json", "report.html"
WIDTH = 170


def write_summary(name: str, records: Sequence[RunRecord], folder: Path) -> dict[str, Any]:
    """Write summary.json and report.html into the folder of a comparison; gives the summary."""
    summary = summarise_runs(name, records)
    write_json(folder / SUMMARY, summary)
    write_text(folder / PAGE, render_compare(summary))
    return summary


def terminal_tables(summary: dict[str, Any]) -> str:
    """The main tables as text."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=WIDTH, highlight=False, color_system=None)
    for table in compare_tables(summary):
        console.print(_on_terminal(table))
    return buffer.getvalue().rstrip()


def _on_terminal(table: Table) -> TerminalTable:
    shown = TerminalTable(title=table.title, box=None, title_justify="left")
    for i, header in enumerate(table.header):
        shown.add_column(header, justify="left" if i == 0 else "right")
    for row in table.rows:
        shown.add_row(*row)
    return shown
