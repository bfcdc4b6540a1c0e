"""Whether an adapter's update is in a weight, and how often, as far as the weight's type can hold it.

The update may be much smaller than the rounding of the weights that it is added to, so the weight is compared entry by
entry with the base plus so many times the update; the ratio by least squares is for what that does not explain.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from textanchor.diffs.rounding import COMPUTED, Rounding

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
    times: frozenset[int]
    """Those of MERGES for which the tuned tensor is base + times * E, as far as its type can hold it."""
    energy: float
    """||E||_F^2."""
    swallowed: float
    """That of the entries which rounding to the tuned type left as they were in the base."""


class MergeSums:
    """A `MergeFit` in the making, block by block."""

    def __init__(self, expected: ExpectedUpdate, rounding: Rounding) -> None:
        self.expected, self.rounding = expected, rounding
        self.times = set(MERGES)
        self.energy = self.along = self.update = self.swallowed = 0.0

    def add(self, start: int, base: Tensor, tuned: Tensor, steps: Tensor | None) -> None:
        """Rows from `start` on, in the base and in the tuned tensor, and how far quantisation may have moved them."""
        update, expected = tuned - base, self.expected.rows(start, start + len(base)).to(base)
        has_stayed = base.to(self.rounding.tuned_dtype).to(tuned) == tuned
        self.energy += _energy(expected)
        self.update += _energy(update)
        self.along += float(expected.flatten() @ update.flatten())
        self.swallowed += _energy(expected * has_stayed)
        rest = torch.zeros(()) if steps is None else steps
        self.times = {times for times in self.times if self._could_be_merged(times, base, tuned, expected, rest)}

    def fit(self) -> MergeFit | None:
        """The outcome; None where the adapter asks for nothing."""
        if not self.energy:
            return None
        fit = self.along / self.energy
        rest = max(self.update - fit * self.along, 0.0)
        return MergeFit(
            fit=fit,
            misfit=(rest / self.update) ** 0.5 if self.update else 0.0,
            times=frozenset(self.times),
            energy=self.energy,
            swallowed=self.swallowed,
        )

    def _could_be_merged(self, times: int, base: Tensor, tuned: Tensor, expected: Tensor, steps: Tensor) -> bool:
        """Whether `tuned` is base + times * expected up to rounding.

        Each merge rounds the sum, and the update, which is a product; the base may be rounded first.
        """
        unit, roundings = self.rounding.unit, self.expected.roundings
        target = base + times * expected
        size = torch.maximum(target.abs(), tuned.abs())
        of_sums = self.rounding.between * base.abs() + (times * roundings * unit + COMPUTED) * size
        mean_size = _mean_size(expected) + (roundings - 1) * _mean_size(base)
        of_products = times * (unit + COMPUTED) * PRODUCT_ROUNDINGS * (expected.abs() + mean_size)
        return bool(((tuned - target).abs() <= of_sums + of_products + steps + self.rounding.spacing).all())


def _energy(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2


def _mean_size(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()
