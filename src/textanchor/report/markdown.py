"""Tables of the report in Markdown."""

from collections.abc import Iterable, Sequence

from textanchor.report.page import Table


def markdown_tables(tables: Iterable[Table]) -> str:
    """The tables below each other, without a line break at the end."""
    return "\n\n".join(map(markdown_table, tables))


def markdown_table(table: Table) -> str:
    """Heading of the third level, how the table is read, and its rows; without a line break at the end."""
    above = [text for text in (f"### {table.title}" if table.title else "", table.note) if text]
    rule = ["---"] + ["---:"] * (len(table.header) - 1)
    rows = [_line(cells) for cells in (table.header, rule, *table.rows)]
    return "\n\n".join([*above, "\n".join(rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
