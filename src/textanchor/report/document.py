"""What a page and a document are: sections of figures and tables, put into one HTML file that loads nothing else."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from textanchor.report import numbers
from textanchor.report.check import Report
from textanchor.tables import Table

TEMPLATES = Path(__file__).parent / "templates"
SCRIPT_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
"""Legal JSON escapes, so that no string of the data can end the script element it is embedded in."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One section of a document; a new one is one file and one entry in `documents`."""

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


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with its title, what it shows in a sentence, and its data as a table."""

    title: str
    note: str
    chart: Markup
    table: Table


def sections_of(checked: Report, pages: Sequence[Page]) -> tuple[list[Section], list[Page]]:
    """The pages that have data, rendered, and those that have none."""
    shown = [page for page in pages if any(has_data(checked, path) for path in page.needs)]
    sections = [Section(page.id, page.title, page.lead, page.render(checked)) for page in shown]
    return sections, [page for page in pages if page not in shown]


def has_data(report: Report, path: str) -> bool:
    """Whether `path` (dotted keys, `*` for any key) leads to something that is neither null nor empty."""
    nodes: list[Any] = [report]
    for key in path.split("."):
        objects = [node for node in nodes if isinstance(node, dict)]
        nodes = [child for node in objects for name, child in node.items() if key in ("*", name)]
    return any(node is not None and node != {} and node != [] for node in nodes)


def render_pages(checked: Report, pages: Sequence[Page], *, masthead: Report | None = None) -> str:
    """The HTML of checked data; pages whose data is absent are left out, and that is said.

    `masthead` has title, creation and version where the data itself has them not.
    """
    sections, left_out = sections_of(checked, pages)
    return render_document(
        "base.html",
        report=masthead or checked,
        style=style_sheet(),
        sections=sections,
        left_out=left_out,
        data=embedded(checked),
    )


def embedded(report: Report) -> Markup:
    """The data for a script element; images are left out, as the page holds them already."""
    data = without_images(report)
    return Markup(json.dumps(data, ensure_ascii=False, allow_nan=False).translate(SCRIPT_ESCAPES))


def without_images(value: Any) -> Any:
    """The same data without any key `image_png_base64`."""
    if isinstance(value, dict):
        return {key: without_images(entry) for key, entry in value.items() if key != "image_png_base64"}
    return [without_images(entry) for entry in value] if isinstance(value, list) else value


def render_plain(title: str, byline: Sequence[str], sections: Sequence[Section], *, data_file: str) -> str:
    """The whole page; the same data gives the same bytes."""
    return render_document(
        "plain.html", title=title, byline=byline, sections=sections, style=style_sheet(), data_file=data_file
    )


def render_tables(tables: Sequence[Table], *, folded: Sequence[Table] = (), note: str = "") -> Markup:
    """Tables under their titles with how they are read, a note, and those that open on a click."""
    return render_template("tables.html", tables=tables, folded=folded, note=note)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": numbers.percent,
        "compact": numbers.compact,
        "count": numbers.count,
        "duration": numbers.duration,
        "moment": numbers.moment,
    }
    return environment


ENVIRONMENT = _environment()


def render_document(name: str, **values: Any) -> str:
    """A whole document from the template of that file name."""
    return ENVIRONMENT.get_template(name).render(**values)


def render_template(name: str, **values: Any) -> Markup:
    """A fragment from the template of that file name, as HTML that needs no further escaping."""
    return Markup(render_document(name, **values))


def style_sheet() -> Markup:
    """The one style sheet, to be inlined."""
    return Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
