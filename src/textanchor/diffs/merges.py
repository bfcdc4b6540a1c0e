"""Whether an adapter's update is in a weight, and how often, as far as the weight's type can hold it.

The update may be much smaller than the rounding of the weights that it is added to, so the weight is compared entry by
entry with the base plus so many times the update; the ratio by least squares is for what that does not explain.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from textanchor.diffs.rounding import COMPUTED, Rounding

HALF_TYPES = (torch.bfloat16, torch.float16)
MERGES = (0, 1, 2, 3)
"""Numbers of times that an update may have been merged which are told apart entry by entry."""
PRODUCT_ROUNDINGS = 8
"""Roundings of its type, relative to the update's mean size, that a product of adapter factors is allowed."""


@dataclass(frozen=True)
class ExpectedUpdate:
    """What an adapter asks for of one tensor."""

    rows: Callable[[int, int], Tensor]
    """Rows of the update, as (rows, row size) in float32."""
    roundings: int = 1
    """How often a merge rounds numbers of the weight's size: once where the update is only added."""


@dataclass(frozen=True, kw_only=True)
class MergeFit:
    """How the change D of one tensor compares with the update E that an adapter asks for."""

    fit: float
    """<D, E> / <E, E>."""
    misfit: float
    """||D - fit E|| / ||D||."""
    dtype: torch.dtype
    """The coarsest type that holds all tuned values: in which they were merged, whatever they were saved as later."""
    times: frozenset[int]
    """Those of MERGES for which the tuned tensor is base + times * E, as far as that type can hold it."""
    energy: float
    """||E||_F^2."""
    swallowed: float
    """That of the entries which rounding to that type left as they were in the base."""


class MergeSums:
    """A `MergeFit` in the making, block by block."""

    def __init__(self, expected: ExpectedUpdate, rounding: Rounding) -> None:
        self.expected = expected
        self.energy = self.along = self.update = 0.0
        dtypes = {rounding.tuned_dtype, *HALF_TYPES}
        self.hypotheses = [_MergedIn(replace(rounding, tuned_dtype=dtype), expected.roundings) for dtype in dtypes]

    def add(self, start: int, base: Tensor, tuned: Tensor, steps: Tensor | None) -> None:
        """Rows from `start` on, in the base and in the tuned tensor, and how far quantisation may have moved them."""
        update, expected = tuned - base, self.expected.rows(start, start + len(base)).to(base)
        self.energy += _energy(expected)
        self.update += _energy(update)
        self.along += float(expected.flatten() @ update.flatten())
        self.hypotheses = [hypothesis for hypothesis in self.hypotheses if hypothesis.holds(tuned)]
        for hypothesis in self.hypotheses:
            hypothesis.add(base, tuned, expected, torch.zeros(()) if steps is None else steps)

    def fit(self) -> MergeFit | None:
        """The outcome; None where the adapter asks for nothing."""
        if not self.energy:
            return None
        fit = self.along / self.energy
        rest = max(self.update - fit * self.along, 0.0)
        merged_in = max(self.hypotheses, key=lambda hypothesis: hypothesis.rounding.unit)
        return MergeFit(
            fit=fit,
            misfit=(rest / self.update) ** 0.5 if self.update else 0.0,
            dtype=merged_in.rounding.tuned_dtype,
            times=frozenset(merged_in.times),
            energy=self.energy,
            swallowed=merged_in.swallowed,
        )


class _MergedIn:
    """The hypothesis that an update was merged in a certain type."""

    def __init__(self, rounding: Rounding, roundings: int) -> None:
        self.rounding, self.roundings = rounding, roundings
        self.times = set(MERGES)
        self.swallowed = 0.0

    def holds(self, tuned: Tensor) -> bool:
        """Whether the type holds these values as they are."""
        return torch.equal(tuned.to(self.rounding.tuned_dtype).to(tuned), tuned)

    def add(self, base: Tensor, tuned: Tensor, expected: Tensor, steps: Tensor) -> None:
        has_stayed = base.to(self.rounding.tuned_dtype).to(tuned) == tuned
        self.swallowed += _energy(expected * has_stayed)
        self.times = {times for times in self.times if self._explains(times, base, tuned, expected, steps)}

    def _explains(self, times: int, base: Tensor, tuned: Tensor, expected: Tensor, steps: Tensor) -> bool:
        """Whether `tuned` is base + times * expected up to rounding.

        Each merge rounds the sum, and the update, which is a product; the base may be rounded first.
        """
        unit = self.rounding.unit
        target = base + times * expected
        size = torch.maximum(target.abs(), tuned.abs())
        of_sums = self.rounding.between * base.abs() + (times * self.roundings * unit + COMPUTED) * size
        mean_size = _mean_size(expected) + (self.roundings - 1) * _mean_size(base)
        of_products = times * (unit + COMPUTED) * PRODUCT_ROUNDINGS * (expected.abs() + mean_size)
        return bool(((tuned - target).abs() <= of_sums + of_products + steps + self.rounding.spacing).all())


def _energy(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2


def _mean_size(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()
