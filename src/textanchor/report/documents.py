"""The JSON files that have a page: what each must hold, its sections in reading order, and how the page is written."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textanchor.errors import DataError
from textanchor.files import read_json, write_text
from textanchor.report import provenance, retention
from textanchor.report.check import Report, Shape, problems
from textanchor.report.demo import audit, curves, drift, hallucination, samples, summary, tasks, text_space
from textanchor.report.demo import schema as report_schema
from textanchor.report.document import Page, render_pages
from textanchor.report.geometry import claims, gap, lens, pairs, spread, subspaces
from textanchor.report.geometry import schema as geometry_schema

MAX_PROBLEMS_TOLD = 5


@dataclass(frozen=True, kw_only=True)
class Document:
    """One kind of JSON file and its page."""

    file: str
    page: str
    what: str
    """What the file is, as an error calls it."""
    way_out: str
    """How to come by a sound file, a sentence."""
    shape: Shape
    pages: Sequence[Page]
    between_keys: Callable[[Report], Iterable[str]] = lambda report: ()
    """Where keys that fit by themselves are at odds with each other."""
    masthead: Callable[[Report], Report] = lambda report: report
    """Title, creation and version."""

    def check(self, content: Any, *, source: str | None = None) -> Report:
        """The content itself, once every key that the pages read has been found sound.

        Raises:
            DataError: names `source` and up to five keys that are missing, of the wrong kind or at odds with others.
        """
        found = list(problems(content, self.shape)) or list(self.between_keys(content))
        if found:
            more = f"; and {len(found) - MAX_PROBLEMS_TOLD} more" if len(found) > MAX_PROBLEMS_TOLD else ""
            raise DataError(
                f"{source or self.file} is not {self.what} that can be shown: {'; '.join(found[:MAX_PROBLEMS_TOLD])}"
                f"{more}. {self.way_out}"
            )
        return content

    def render(self, content: Any, *, source: str | None = None) -> str:
        """The HTML; the same content gives the same bytes. DataError as `check`."""
        checked = self.check(content, source=source)
        return render_pages(checked, self.pages, masthead=self.masthead(checked))

    def build(self, content: Path | dict[str, Any], out: Path) -> Path:
        """Write the page of a file, or of its content, as one HTML file that loads nothing else, and return its path.

        `out` is replaced in one move, and untouched if anything fails.

        Raises:
            DataError: the file is not JSON, or as `check`.
        """
        is_file = isinstance(content, Path)
        html = self.render(read_json(content) if is_file else content, source=str(content) if is_file else None)
        write_text(out, html)
        return out


REPORT = Document(
    file="report.json",
    page="report.html",
    what="a report",
    way_out="Write it again with the command that made it, or mend these keys by hand.",
    shape=report_schema.REPORT,
    between_keys=report_schema.problems_between_keys,
    pages=(
        summary.PAGE,
        tasks.PAGE,
        hallucination.PAGE,
        curves.PAGE,
        samples.PAGE,
        text_space.PAGE,
        drift.PAGE,
        audit.PAGE,
        provenance.PAGE,
    ),
)
GEOMETRY = Document(
    file="geometry.json",
    page="geometry.html",
    what="a measurement",
    way_out="Write it again with `textanchor measure`.",
    shape=geometry_schema.GEOMETRY,
    between_keys=geometry_schema.problems_between_keys,
    pages=(
        claims.PAGE,
        spread.PAGE,
        gap.PAGE,
        subspaces.PAGE,
        pairs.PAGE,
        lens.PAGE,
        provenance.PAGE,
    ),
)
RETENTION = Document(
    file="retention.json",
    page="retention.html",
    what="a retention report",
    way_out="Evaluate again with --baseline.",
    shape=retention.RETENTION,
    pages=retention.PAGES,
    masthead=retention.masthead,
)
