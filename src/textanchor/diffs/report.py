"""The outcome of a diff: verdict, findings, parts and tensors; as text, as plain values, and as a folder."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from textanchor.diffs.findings import Finding
from textanchor.diffs.rows import PartRow, TensorRow
from textanchor.files import atomic_directory, write_json, write_text
from textanchor.tables import Table

Column = tuple[str, Callable[[PartRow], str]]
"""Title and content of a column of the table of parts."""
ABSENT = "-"
COLUMNS: tuple[Column, ...] = (
    ("part", lambda row: row.title),
    ("changed", lambda row: f"{row.num_changed} of {row.num_tensors}"),
    ("update", lambda row: ABSENT if row.relative is None else f"{row.relative:.2%}"),
    ("norm", lambda row: ABSENT if row.norm_ratio is None else f"{row.norm_ratio:.3f}"),
    ("rank", lambda row: row.ranks or ABSENT),
)
"""update: ||W - W0|| / ||W0|| of what changed; norm: ||W|| / ||W0||, the one furthest from 1; rank: of the updates."""
MISSING: Column = ("missing", lambda row: str(row.num_missing) if row.num_missing else ABSENT)


@dataclass(frozen=True, kw_only=True)
class AnchorSummary:
    """The text anchor that shares of updates refer to."""

    source: str
    width: int
    counts: tuple[int, ...]
    """Numbers of top directions k; an update that knows nothing of text has share k / width in them."""


@dataclass(frozen=True, kw_only=True)
class DiffReport:
    """What happened between two checkpoints; made by `diff`."""

    base: str
    tuned: str
    findings: tuple[Finding, ...]
    """The gravest first."""
    parts: tuple[PartRow, ...]
    tensors: tuple[TensorRow, ...]
    anchor: AnchorSummary | None
    """None where nothing that writes into text space changed, or the base's embedding is not known."""
    notes: tuple[str, ...] = ()
    """How parts were found and what was left out."""
    record: dict[str, Any] = field(default_factory=dict, repr=False)
    """Options, seconds, peak memory, commit, versions and hardware."""

    @property
    def verdict(self) -> str:
        """The gravest finding in one line."""
        return self.findings[0].sentence

    @property
    def is_lost(self) -> bool:
        """Whether the tuned files do not hold, or do not load as, the model that was trained."""
        return self.findings[0].severity == "lost"

    def tensor(self, name: str) -> TensorRow:
        """The row of one tensor, by the model's own name; KeyError where there is none."""
        for row in self.tensors:
            if row.name == name:
                return row
        raise KeyError(name)

    def part_table(self) -> Table:
        """The table of parts, narrow enough for a terminal: columns without content are left out."""
        columns = list(COLUMNS)
        if any(row.num_missing for row in self.parts):
            columns.insert(2, MISSING)
        if self.anchor is not None:
            columns.append((self._shares_title(self.anchor), _shares))
        rows = [tuple(cell(row) for _, cell in columns) for row in self.parts]
        return Table(tuple(title for title, _ in columns), rows)

    @staticmethod
    def _shares_title(anchor: AnchorSummary) -> str:
        """Of the share of updates in the top text directions, by their own share of all: what chance would give."""
        return f"text {'/'.join(f'{k / anchor.width:.0%}'.rstrip('%') for k in anchor.counts)}%"

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {"format": 1, "kind": "diff", "verdict": self.verdict} | asdict(self)

    def save(self, folder: Path | str) -> None:
        """Write diff.json and diff.html into `folder`, which must be new or empty."""
        with atomic_directory(folder) as made:
            self.write(made)

    def write(self, folder: Path) -> None:
        """The same into a folder that the caller has made for it."""
        from textanchor.report.diff import render_diff

        values = self.to_dict()
        write_json(folder / "diff.json", values)
        write_text(folder / "diff.html", render_diff(values))

    def __str__(self) -> str:
        lines = [f"{finding.severity}: {finding.sentence}" for finding in self.findings]
        return "\n".join([*lines, "", self.part_table().aligned()])


def _shares(row: PartRow) -> str:
    return " / ".join(f"{100 * share:.3g}" for share in row.text_shares or ()) or ABSENT
