"""From report.json to report.html: check, render the pages that have data, inline everything, write atomically."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from textanchor.files import read_json, write_text
from textanchor.report.page import Page, sections_of
from textanchor.report.pages import PAGES
from textanchor.report.schema import Report, check_report
from textanchor.report.templating import render_document, style_sheet

SCRIPT_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
"""Legal JSON escapes, so that no string of the data can end the script element it is embedded in."""


def build_report(report_json: Path | dict[str, Any], out: Path) -> Path:
    """Write the report as one HTML file that loads nothing else, and return its path.

    `report_json` is the file or its content; `out` is replaced in one move, and untouched if anything fails.

    Raises:
        DataError: the file is not JSON, or keys are missing, of the wrong kind or at odds with each other.
    """
    if isinstance(report_json, dict):
        html = render_report(report_json)
    else:
        html = render_report(read_json(report_json), source=str(report_json))
    write_text(out, html)
    return out


def render_report(report: Any, *, source: str = "the report's data", pages: Sequence[Page] = PAGES) -> str:
    """The HTML of the report; the same data gives the same bytes.

    Raises:
        DataError: names `source` and each key that is missing, of the wrong kind or at odds with another.
    """
    return render_pages(check_report(report, source=source), pages)


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
