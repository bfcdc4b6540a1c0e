"""What a page of the report is, and the two things that most pages are made of: figures and tables."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from textanchor.report.charts.markers import legend_marker
from textanchor.report.readings import styles
from textanchor.report.schema import Report, has_data
from textanchor.report.templating import render_template
from textanchor.tables import Table


@dataclass(frozen=True, kw_only=True)
class Page:
    """One section of the report; a new page is one file in `report/pages/` and one entry in its list."""

    id: str
    """Anchor in the page's address, kept stable once published."""
    title: str
    lead: str
    """One or two sentences: what is seen here and how it is read."""
    needs: tuple[str, ...]
    """Key paths (`*` for any key), one of which must hold data; otherwise the page is left out and that is said."""
    render: Callable[[Report], Markup]
    """From a checked report to an HTML fragment without the heading."""


@dataclass(frozen=True)
class Section:
    """A page with its content, as the document shows it."""

    id: str
    title: str
    lead: str
    body: Markup


def sections_of(checked: Report, pages: Sequence[Page]) -> tuple[list[Section], list[Page]]:
    """The pages that have data, rendered, and those that have none."""
    shown = [page for page in pages if any(has_data(checked, path) for path in page.needs)]
    sections = [Section(page.id, page.title, page.lead, page.render(checked)) for page in shown]
    return sections, [page for page in pages if page not in shown]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with its title, what it shows in a sentence, and its data as a table."""

    title: str
    note: str
    chart: Markup
    table: Table


def render_figures(
    report: Report,
    figures: Iterable[Figure],
    *,
    methods: Iterable[str] | None = None,
    note: str = "",
    line_keys: Sequence[tuple[str, str]] = (),
) -> Markup:
    """The figures under one legend: the methods that occur (default: before and all), and what a kind of line means.

    `line_keys` are (kind of line, meaning); `note` is set under the figures.
    """
    looks = styles(report)
    shown = list(looks) if methods is None else list(methods)
    legend = [(looks[name], legend_marker(looks[name].marker)) for name in shown]
    return render_template("figures.html", figures=list(figures), legend=legend, line_keys=line_keys, note=note)


def without_data(report: Report, key: str, what: str) -> str:
    """A sentence that names the methods whose run has no `key`, empty where all have it."""
    looks = styles(report)
    missing = [looks[name].label for name, run in report["after"].items() if not run.get(key)]
    return f"No {what} in the data for: {', '.join(missing)}." if missing else ""
