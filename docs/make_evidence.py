"""Writes the page and the tables of docs/evidence/ from the committed records: python docs/make_evidence.py

Nothing is trained. The same records give the same bytes.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments" / "step_zero"))

from page import step_zero_stages, step_zero_tables
from page.sections import step_zero_sections

from textanchor.experiment.reading.summary import summarise_runs
from textanchor.files import write_text
from textanchor.outputs import finished
from textanchor.records import RunRecord
from textanchor.report.compare import compare_sections, compare_tables
from textanchor.report.document import Section, render_plain
from textanchor.tables import Table, markdown_tables

PAGE, TABLES = "evidence.html", "tables.md"
HEAD = """\
# Evidence: tables

Made from the committed records below `docs/evidence/` by `make evidence`, without training; the same tables with
figures are in `docs/evidence/evidence.html`. A contract test compares both files with what the records give.\
"""
NOTHING = (
    "No records of step zero or of comparisons are committed yet: what was measured so far stands in the other files "
    "and folders of docs/evidence/."
)


@dataclass(frozen=True)
class Part:
    """One group of records: its heading, sections of the page, and tables with their titles."""

    title: str
    source: str
    """Where its records lie, below the folder of the evidence, and the command that made them."""
    sections: Sequence[Section]
    tables: Sequence[Table]


def comparisons(folder: Path) -> Iterable[Part]:
    """A part for each `compare/NAME/` that holds the records of `textanchor compare`."""
    for own in sorted(path.parent for path in (folder / "compare").glob("*/runs")):
        records = [RunRecord.load(path) for path in finished(own / "runs", "*.json")]
        if records:
            summary = summarise_runs(own.name, records)
            commits = ", ".join(commit[:12] for commit in summary["commits"])
            source = (
                f"compare/{own.name}/runs: {summary['num_runs']} records of "
                f"`textanchor compare` at commit {commits}, {summary['hours']:.1f} hours"
            )
            sections = compare_sections(summary, prefix=f"{own.name}-")
            titled = [Section(s.id, f"Comparison {own.name}: {s.title}", s.lead, s.body) for s in sections]
            yield Part(f"Comparison {own.name}", source, titled, compare_tables(summary))


def step_zero(folder: Path) -> Iterable[Part]:
    """A part for each `step_zero/MODEL/` that holds the records of `experiments/step_zero`."""
    for own in sorted(path for path in (folder / "step_zero").glob("*") if path.is_dir()):
        records = [RunRecord.load(path) for path in finished(own, "*.json")]
        if records:
            commits = ", ".join(sorted({(record.commit or "unknown")[:12] for record in records}))
            counted = "1 record" if len(records) == 1 else f"{len(records)} records"
            source = (
                f"step_zero/{own.name}: {counted} of `experiments/step_zero` at commit {commits}; terms are defined "
                "in [step zero](step_zero.md)"
            )
            stages = step_zero_stages(records)
            sections = step_zero_sections(stages, prefix=f"step-zero-{own.name}-")
            titled = [Section(s.id, f"Step zero, {s.title}", s.lead, s.body) for s in sections]
            yield Part(f"Step zero {own.name}", source, titled, step_zero_tables(stages))


READERS: tuple[Callable[[Path], Iterable[Part]], ...] = (step_zero, comparisons)
"""What turns records into parts, in the order of the page; a new kind of record is one function here."""


def evidence(folder: Path) -> dict[str, str]:
    """Content of the two files by their names; the same records give the same bytes."""
    parts = [part for read in READERS for part in read(folder)]
    sections = [section for part in parts for section in part.sections]
    blocks = [HEAD, *(block for part in parts for block in _blocks(part))]
    if not parts:
        blocks.append(NOTHING)
        sections = [Section("nothing", "Nothing to show yet", NOTHING, Markup(""))]
    byline = [part.title for part in parts]
    return {
        PAGE: render_plain("Evidence", byline, sections, data_file="the records"),
        TABLES: "\n\n".join(blocks) + "\n",
    }


def _blocks(part: Part) -> list[str]:
    return [f"## {part.title}", f"{part.source}.", markdown_tables(part.tables)]


if __name__ == "__main__":
    folder = Path(__file__).with_name("evidence")
    for name, content in evidence(folder).items():
        write_text(folder / name, content)
        print(folder / name)
