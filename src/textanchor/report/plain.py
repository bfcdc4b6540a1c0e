"""Pages of one verb's outcome, such as a diff: sections in the report's looks, made from plain JSON."""

from collections.abc import Sequence

from markupsafe import Markup

from textanchor.report.page import Section
from textanchor.report.templating import render_document, render_template, style_sheet
from textanchor.tables import Table


def render_plain(title: str, byline: Sequence[str], sections: Sequence[Section], *, data_file: str) -> str:
    """The whole page; the same data gives the same bytes."""
    return render_document(
        "plain.html", title=title, byline=byline, sections=sections, style=style_sheet(), data_file=data_file
    )


def render_tables(tables: Sequence[Table], *, folded: Sequence[Table] = (), note: str = "") -> Markup:
    """Tables under their titles with how they are read, a note, and those that open on a click."""
    return render_template("tables.html", tables=tables, folded=folded, note=note)
