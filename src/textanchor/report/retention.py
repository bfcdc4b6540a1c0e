"""The page of retention.json, which `textanchor evaluate --baseline` writes: what a model kept and what it lost."""

from pathlib import Path
from typing import Any

from textanchor.errors import DataError
from textanchor.files import write_text
from textanchor.report.build import render_pages
from textanchor.report.check import Named, Nullable, is_bool, is_count, is_number, is_text, problems
from textanchor.report.pages.retention import PAGES
from textanchor.report.schema import INTERVAL

MEASURED = {"before": is_number, "after": is_number, "forgetting": INTERVAL}
SUITE = {
    "kind": is_text,
    "tuned": is_bool,
    "num_items": is_count,
    "measures": Named(MEASURED),
    "format_loss": Nullable({"total": INTERVAL, "real": INTERVAL, "format": INTERVAL}),
}
POINT = {"run": is_text, "learned": Named(Nullable(is_number)), "kept": Named(Nullable(is_number))}
MATCHED = {
    "level": Nullable(is_number),
    "reached": Named(is_bool),
    "kept": Named(Nullable(Named(Nullable(is_number)))),
    "curves": Named([POINT]),
}
RETENTION = {
    "created": is_text,
    "textanchor_version": is_text,
    "runs": [is_text],
    "tuned": [is_text],
    "not_compared": [is_text],
    "suites": Named(SUITE, at_least=1),
    "transfer": Named(Named({"suites": [is_text], **INTERVAL})),
    "h_mean": Nullable({"upstream": is_number, "downstream": is_number, "value": is_number}),
    "bwt": Nullable(Named(INTERVAL)),
    "curve": [POINT],
    "matched": Nullable(MATCHED),
}


def check_retention(retention: Any, *, source: str = "retention.json") -> dict[str, Any]:
    """The content itself, once it has been found sound; DataError that names `source` and the first wrong key."""
    if found := list(problems(retention, RETENTION)):
        raise DataError(f"{source}: {found[0]}; evaluate again with --baseline")
    return retention


def build_retention_page(retention: dict[str, Any], out: Path) -> Path:
    """Write the page as one HTML file that loads nothing else, and return its path."""
    html = render_retention(retention)
    write_text(out, html)
    return out


def render_retention(retention: dict[str, Any]) -> str:
    """The HTML of the page; the same data gives the same bytes."""
    checked = check_retention(retention)
    masthead = {
        "title": f"What {checked['runs'][-1]} kept of {checked['runs'][0]}",
        "created": checked["created"],
        "textanchor_version": checked["textanchor_version"],
        "new_task": ", ".join(checked["tuned"]) or "none named",
    }
    return render_pages(checked, PAGES, masthead=masthead)
