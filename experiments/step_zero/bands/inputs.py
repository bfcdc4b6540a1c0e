"""Take a band of the inputs out of the update of linears: Delta W (I - V diag(h) V^T), the bias as one more input.

What that removes from the function behind the linears is no sum over directions (there is an activation between them),
so the extent that removes a given share is searched for: the same fraction of the directions of every linear.

Shape legend: O outputs, E inputs with the constant, K directions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bands.directions import Band

Deltas = Mapping[str, Tensor]
"""Change by name of the linear, (O, E), the bias as its last column where there is one."""


@dataclass(frozen=True)
class LinearUpdate:
    """Change of one linear, and the directions of its inputs in the order in which they are taken."""

    name: str
    delta_OE: Tensor
    band: Band

    def without(self, fraction: float) -> Tensor:
        """The change without the leading `fraction` of the directions, the last of them in part."""
        directions_EK = self.band.directions_DK
        order_K = torch.arange(directions_EK.shape[1], dtype=self.delta_OE.dtype)
        gains_K = (fraction * directions_EK.shape[1] - order_K).clamp(0, 1)
        count = int((gains_K > 0).sum())
        taken_OK = self._along_OK[:, :count] * gains_K[:count]
        return self.delta_OE - taken_OK @ directions_EK[:, :count].to(self.delta_OE).T

    @cached_property
    def _along_OK(self) -> Tensor:
        return self.delta_OE @ self.band.directions_DK.to(self.delta_OE)

    def num_taken(self, fraction: float) -> int:
        """How many directions that touches."""
        return int(-(-fraction * self.band.directions_DK.shape[1] // 1))


@dataclass(frozen=True)
class InputRemoval:
    """Updates after a band of the inputs was taken out."""

    band: str
    fraction: float
    """Share of the directions of each linear."""
    num_directions: dict[str, int]
    removed: float
    """Share of the drift's energy behind the linears that this takes out."""
    deltas: Deltas


def remove_inputs(updates: Sequence[LinearUpdate], removed_by: Callable[[Deltas], float], share: float) -> InputRemoval:
    """Take so many leading directions of every linear that `removed_by` the new updates is `share`.

    `removed_by` is 0 for the updates as they are and 1 without any; Brent's method (1973) in between.
    """
    from scipy.optimize import brentq

    def missing(fraction: float) -> float:
        return removed_by({update.name: update.without(fraction) for update in updates}) - share

    fraction, outcome = brentq(missing, 0.0, 1.0, xtol=1e-9, full_output=True)
    if not outcome.converged:
        raise RuntimeError(f"no extent of {updates[0].band.name} that removes {share} was found")
    return remove_leading_inputs(updates, removed_by, float(fraction))


def remove_leading_inputs(
    updates: Sequence[LinearUpdate], removed_by: Callable[[Deltas], float], fraction: float
) -> InputRemoval:
    """Take the leading `fraction` of the directions of every linear."""
    deltas = {update.name: update.without(fraction) for update in updates}
    counts = {update.name: update.num_taken(fraction) for update in updates}
    return InputRemoval(updates[0].band.name, fraction, counts, removed_by(deltas), deltas)
