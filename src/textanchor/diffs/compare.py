"""One tensor of the base beside the tuned one, streamed in blocks of rows: equal, equal up to rounding, or how changed.

Equal tensors cost one read. A changed matrix is read twice: once for norms and a random sketch, once for the singular
values in the sketch's range.

Shape legend: O rows, I columns of a matrix (further dimensions flattened), S columns of the sketch, K directions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from textanchor.diffs.checkpoint import block_ranges, is_float
from textanchor.diffs.headers import StoredTensor
from textanchor.diffs.merges import ExpectedUpdate, MergeFit, MergeSums
from textanchor.diffs.rounding import COMPUTED, Rounding

Status = Literal["equal", "rounding", "changed", "shape", "missing", "added"]

MAX_RANK = 128
"""Largest rank of an update that is told; of larger ones it is said that they are larger."""
OVERSAMPLING = 8
NOISE_MARGIN = 1.25
"""Singular values below this times the largest that rounding alone is expected to make are rounding."""


class Rows(Protocol):
    """What tensors are read from."""

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """Shape and type by name."""
        ...

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows of one tensor as (rows, row size)."""
        ...

    def steps(self, name: str, start: int, stop: int) -> Tensor | None:
        """How far quantisation may have moved each entry of them; None for a plain tensor."""
        ...


@dataclass(frozen=True)
class Source:
    """One tensor of a checkpoint."""

    checkpoint: Rows
    name: str

    @property
    def stored(self) -> StoredTensor:
        """Its shape and type."""
        return self.checkpoint.tensors[self.name]

    def rows(self, start: int, stop: int) -> Tensor:
        """Its rows, as (rows, row size)."""
        return self.checkpoint.rows(self.name, start, stop)

    def steps(self, start: int, stop: int) -> Tensor | None:
        """How far quantisation may have moved each entry of them; None for a plain tensor."""
        return self.checkpoint.steps(self.name, start, stop)


@dataclass(frozen=True, kw_only=True)
class Change:
    """How one tensor changed; numbers are None where they mean nothing or cannot be known."""

    status: Status
    relative: float | None = None
    """||W - W0||_F / ||W0||_F."""
    norm_ratio: float | None = None
    """||W||_F / ||W0||_F."""
    base_energy: float = 0.0
    update_energy: float = 0.0
    num_bad: int = 0
    """Entries of the tuned tensor that are NaN or infinite."""
    num_bad_in_base: int = 0
    """The same of the base's tensor, unless both are equal byte by byte."""
    rank: int | None = None
    """Singular values of the update above what rounding makes."""
    is_rank_larger: bool = False
    """Whether the rank is larger than `rank`."""
    stable_rank: float | None = None
    """||D||_F^2 / ||D||_2^2."""
    text_energies_K: Tensor | None = field(default=None, repr=False)
    """Energy of the update along each direction of the text anchor, as output directions."""
    merge: MergeFit | None = None
    """How the change compares with the update that an adapter asks for."""


def compare(
    base: Source,
    tuned: Source,
    *,
    directions_DK: Tensor | None = None,
    expected: ExpectedUpdate | None = None,
    seed: int = 0,
) -> Change:
    """How `tuned` differs from `base`.

    `directions_DK`: anchor in the space of the rows (outputs), to share the update's energy among. `expected`: what an
    adapter asks for.
    """
    first, second = base.stored, tuned.stored
    if first.shape != second.shape:
        return Change(status="shape")
    if _is_equal(base, tuned) and expected is None:
        return Change(status="equal")
    if not (is_float(first.dtype) and is_float(second.dtype)):
        return Change(status="changed")
    with torch.no_grad():
        return _Comparison(base, tuned, directions_DK, expected, seed).run()


def _is_equal(base: Source, tuned: Source) -> bool:
    """Whether type and bytes are the same; reads no further than the first difference."""
    if base.stored.dtype != tuned.stored.dtype:
        return False
    return all(
        torch.equal(_bits(base.rows(start, stop)), _bits(tuned.rows(start, stop)))
        for start, stop in block_ranges(base.stored)
    )


def _bits(values: Tensor) -> Tensor:
    """The bytes, so that NaN equals NaN and -0 is not 0; eight at a time where they come out even."""
    flat = values.contiguous().view(-1)
    return flat.view(torch.int64 if flat.numel() * flat.element_size() % 8 == 0 else torch.uint8)


class _Comparison:
    """Sums over the blocks of one changed tensor."""

    def __init__(
        self,
        base: Source,
        tuned: Source,
        directions_DK: Tensor | None,
        expected: ExpectedUpdate | None,
        seed: int,
    ) -> None:
        self.base, self.tuned = base, tuned
        self.directions_DK = directions_DK
        stored = base.stored
        self.num_rows, self.row_size = stored.num_rows, stored.row_size
        self.is_matrix = len(stored.shape) > 1 and min(self.num_rows, self.row_size) > 1
        self.width = min(MAX_RANK + OVERSAMPLING, self.num_rows, self.row_size)
        self.seed = seed
        self.rounding = Rounding(base.stored.dtype, tuned.stored.dtype)
        self.is_requantised = base.stored.quantised != tuned.stored.quantised
        self.merge = None if expected is None else MergeSums(expected, self.rounding)

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, their values in the base and in the tuned tensor, in float32 (float64 where both have it)."""
        is_double = self.base.stored.dtype == self.tuned.stored.dtype == torch.float64
        dtype = torch.float64 if is_double else torch.float32
        for start, stop in block_ranges(self.base.stored):
            base, tuned = self.base.rows(start, stop), self.tuned.rows(start, stop)
            yield slice(start, stop), base.to(dtype), tuned.to(dtype)

    def _steps(self, rows: slice) -> Tensor | None:
        """How far quantisation may have moved each entry, where only one of both is quantised or both otherwise."""
        if not self.is_requantised:
            return None
        found = [source.steps(rows.start, rows.stop) for source in (self.base, self.tuned)]
        first, *others = [steps for steps in found if steps is not None]
        return sum(others, first)

    def run(self) -> Change:
        sums, num_bad, num_bad_in_base, is_rounding = _Sums(), 0, 0, True
        text_KI, sketch_OS, mixing_IS = None, None, self._mixing()
        for rows, base_RI, tuned_RI in self.blocks():
            energies = _energy(base_RI), _energy(tuned_RI)
            num_bad_in_base += _num_not_finite(base_RI, energies[0])
            num_bad += _num_not_finite(tuned_RI, energies[1])
            if num_bad or num_bad_in_base:  # from here on only counted: no norm means anything
                continue
            update_RI = tuned_RI - base_RI
            sums.add(*energies, update_RI)
            steps_RI = self._steps(rows)
            sums.add_steps(steps_RI)
            is_rounding = is_rounding and self.rounding.explains(base_RI, tuned_RI, steps_RI)
            if self.merge is not None:
                self.merge.add(rows.start, base_RI, tuned_RI, steps_RI)
            if mixing_IS is not None:
                if sketch_OS is None:
                    mixing_IS = mixing_IS.to(update_RI)
                    sketch_OS = update_RI.new_empty(self.num_rows, self.width)
                sketch_OS[rows] = update_RI @ mixing_IS
            if self.directions_DK is not None:
                part_KI = self.directions_DK[rows].to(update_RI).T @ update_RI
                text_KI = part_KI if text_KI is None else text_KI.add_(part_KI)
        if num_bad or num_bad_in_base:
            return Change(status="changed", num_bad=num_bad, num_bad_in_base=num_bad_in_base)
        if not sums.are_finite:  # entries so large that their squares are not
            return Change(status="changed")
        change = sums.change("rounding" if is_rounding else "changed" if sums.update else "equal")
        if self.merge is not None:
            change = replace(change, merge=self.merge.fit())
        if change.status != "changed":
            return change
        if text_KI is not None:
            change = replace(change, text_energies_K=text_KI.square().sum(1, dtype=torch.float64))
        return change if sketch_OS is None else self._with_rank(change, self._singular_values(sketch_OS), sums)

    def _mixing(self) -> Tensor | None:
        """Random matrix (I, S) whose product with the update spans its range; Halko et al. 2011, algorithm 4.1."""
        if not self.is_matrix:
            return None
        if self.width == self.row_size:
            return torch.eye(self.row_size)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.row_size, self.width, generator=generator)

    def _singular_values(self, sketch_OS: Tensor) -> Tensor:
        """Largest singular values of the update, exact where its rank is below the sketch's width."""
        range_OS, _ = torch.linalg.qr(sketch_OS)
        small_SI = sketch_OS.new_zeros(range_OS.shape[1], self.row_size)
        for rows, base_RI, tuned_RI in self.blocks():
            small_SI.addmm_(range_OS[rows].T, tuned_RI - base_RI)
        gram_SS = small_SI.double() @ small_SI.double().T
        return torch.linalg.eigvalsh(gram_SS).clamp_min(0).sqrt().flip(0)

    def _with_rank(self, change: Change, singular_S: Tensor, sums: "_Sums") -> Change:
        count = self.num_rows * self.row_size
        noise = ((self.rounding.unit**2 * sums.tuned + sums.steps) / (3 * count)) ** 0.5
        largest = float(singular_S[0])
        from_storing = NOISE_MARGIN * noise * (self.num_rows**0.5 + self.row_size**0.5)
        from_computing = COMPUTED * largest
        rank = int((singular_S > max(from_storing, from_computing)).sum())
        return replace(
            change,
            rank=min(rank, MAX_RANK),
            is_rank_larger=rank > MAX_RANK,
            stable_rank=sums.update / largest**2,
        )


@dataclass
class _Sums:
    """Energies of the whole tensors so far."""

    base: float = 0.0
    tuned: float = 0.0
    update: float = 0.0
    steps: float = 0.0

    def add(self, base: float, tuned: float, update: Tensor) -> None:
        self.base += base
        self.tuned += tuned
        self.update += _energy(update)

    def add_steps(self, steps: Tensor | None) -> None:
        self.steps += 0.0 if steps is None else _energy(steps)

    @property
    def are_finite(self) -> bool:
        """Whether all of them can be told."""
        return math.isfinite(self.base + self.tuned + self.update)

    def change(self, status: Status) -> Change:
        """The norms as a `Change`."""
        return Change(
            status=status,
            relative=(self.update / self.base) ** 0.5 if self.base else None,
            norm_ratio=(self.tuned / self.base) ** 0.5 if self.base else None,
            base_energy=self.base,
            update_energy=self.update,
        )


def _num_not_finite(values: Tensor, energy: float) -> int:
    """NaN and infinite entries; where their energy is finite there are none, which is quicker to see."""
    return 0 if energy < math.inf else int((~torch.isfinite(values)).sum())


def _energy(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2
