"""The outcome for one tensor and for one part, as plain values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from textanchor.diffs.compare import Status
from textanchor.diffs.structure import GROUPS
from textanchor.tables import PART_TITLES


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """What happened to one tensor; numbers are None where they mean nothing or were not computed."""

    name: str
    """The model's own name."""
    part: str
    """vision_tower, projector, language_model, embedding, head or other."""
    status: Status
    shape: tuple[int, ...]
    base_dtype: str | None = None
    tuned_dtype: str | None = None
    relative: float | None = None
    """||W - W0||_F / ||W0||_F."""
    norm_ratio: float | None = None
    """||W||_F / ||W0||_F."""
    rank: int | None = None
    """Singular values of the update above what rounding makes."""
    is_rank_larger: bool = False
    """Whether the rank is larger than `rank`, which is then the largest that is told."""
    stable_rank: float | None = None
    text_shares: tuple[float, ...] | None = None
    """Share of the update's energy in the first k directions of the text anchor, for each k of the report."""
    intruders: int | None = None
    """Of the first 10 left singular vectors of the tuned weight, those that resemble none of the base's."""
    num_bad: int = 0
    """NaN and infinite entries."""
    base_energy: float = 0.0
    update_energy: float = 0.0

    @property
    def is_changed(self) -> bool:
        """Whether the values differ by more than the rounding between two types."""
        return self.status in ("changed", "shape")

    @property
    def is_empty(self) -> bool:
        """Whether the tensor holds no entry at all."""
        return 0 in self.shape

    @property
    def is_low_rank(self) -> bool:
        """Whether the update has far lower rank than the matrix could have, as that of LoRA."""
        full = min(self.shape[0], _product(self.shape[1:])) if len(self.shape) > 1 else 0
        return self.rank is not None and not self.is_rank_larger and 0 < 2 * self.rank <= full


@dataclass(frozen=True, kw_only=True)
class PartRow:
    """What happened to one part."""

    part: str
    num_tensors: int
    num_changed: int
    num_missing: int
    relative: float | None
    """||W - W0|| / ||W0|| over the tensors that changed."""
    norm_ratio: float | None
    """Largest ||W|| / ||W0|| of a changed tensor, or the smallest where that is further from 1."""
    ranks: str
    """Smallest and largest rank of an update, as text."""
    text_shares: tuple[float, ...] | None
    """Share of all updates of linears that write into text space, in the first k directions for each k."""

    @property
    def title(self) -> str:
        """The part's name for people."""
        return PART_TITLES[self.part]


def part_rows(tensors: Sequence[TensorRow]) -> tuple[PartRow, ...]:
    """One row for each part that has tensors, in the order of the forward pass."""
    parts = {part: [row for row in tensors if row.part == part] for part in GROUPS}
    return tuple(_part_row(part, rows) for part, rows in parts.items() if rows)


def _part_row(part: str, rows: Sequence[TensorRow]) -> PartRow:
    changed = [row for row in rows if row.is_changed]
    base, update = sum(row.base_energy for row in changed), sum(row.update_energy for row in changed)
    ratios = [row.norm_ratio for row in changed if row.norm_ratio]
    return PartRow(
        part=part,
        num_tensors=len(rows),
        num_changed=len(changed),
        num_missing=sum(row.status == "missing" for row in rows),
        relative=(update / base) ** 0.5 if base else None,
        norm_ratio=max(ratios, key=lambda ratio: max(ratio, 1 / ratio)) if ratios else None,
        ranks=_ranks([row for row in changed if row.rank is not None]),
        text_shares=_shares([row for row in changed if row.text_shares is not None]),
    )


def _ranks(rows: Iterable[TensorRow]) -> str:
    known = sorted((row.rank or 0, row.is_rank_larger) for row in rows)
    if not known:
        return ""
    texts = [f">{rank}" if is_larger else str(rank) for rank, is_larger in (known[0], known[-1])]
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


def _shares(rows: Sequence[TensorRow]) -> tuple[float, ...] | None:
    total = sum(row.update_energy for row in rows)
    if not total:
        return None
    number = len(rows[0].text_shares or ())
    return tuple(sum((row.text_shares or ())[i] * row.update_energy for row in rows) / total for i in range(number))


def _product(sizes: Iterable[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
