"""A filter P = V diag(g) V^T on states of width D, or its complement I - V diag(g) V^T, kept as low rank as it can be.

Shape legend: R rows that the filter acts on, D width, K directions.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from textanchor.spectral.basis import Basis
from textanchor.spectral.products import linear


@dataclass(frozen=True)
class Subspace:
    """What is protected: `gains_K` on orthonormal `directions_DK`; with `complement` all but that."""

    directions_DK: Tensor
    gains_K: Tensor
    complement: bool = False

    @classmethod
    def of(cls, basis: Basis, gains_K: Tensor, *, complement: bool = False, compact: bool = True) -> "Subspace":
        """The filter with these gains on all directions of a basis, its sinks always at 1.

        `compact` takes the smaller form: of a complete basis under 0/1 gains that keeps k of D directions, min(k, D -
        k) are stored. Without it the protected directions are stored, which products of two filters need.
        """
        gains_K = torch.cat([torch.ones_like(gains_K[: basis.num_sinks]), gains_K[basis.num_sinks :]])
        chosen = gains_K > 0
        width, is_complete = len(basis.directions_DK), basis.directions_DK.shape[0] == basis.directions_DK.shape[1]
        is_hard = bool((gains_K[chosen] == 1).all())
        if compact and is_complete and is_hard and 2 * int(chosen.sum()) > width:
            return cls(basis.directions_DK[:, ~chosen].contiguous(), torch.ones_like(gains_K[~chosen]), not complement)
        return cls(basis.directions_DK[:, chosen].contiguous(), gains_K[chosen], complement)

    @classmethod
    def everything(cls, like_DK: Tensor) -> "Subspace":
        """The filter that protects all directions of the width, type and device of `like_DK`."""
        return cls(like_DK[:, :0].contiguous(), like_DK.new_zeros(0), complement=True)

    @property
    def width(self) -> int:
        """Width D of the states."""
        return self.directions_DK.shape[0]

    @cached_property
    def is_hard(self) -> bool:
        """Whether every gain is 0 or 1, so that P is a projection."""
        return bool(((self.gains_K == 0) | (self.gains_K == 1)).all())

    @cached_property
    def has_unit_gains(self) -> bool:
        """Whether every gain is 1."""
        return bool((self.gains_K == 1).all())

    @cached_property
    def num_protected(self) -> float:
        """Trace of P: the number of directions protected, weighted by their gains."""
        kept = float(self.gains_K.sum())
        return self.width - kept if self.complement else kept

    def protected(self, x_RD: Tensor) -> Tensor:
        """x P, the protected part of each row, in the precision of x."""
        directions_DK = self.directions_DK.to(x_RD)
        kept_RD = linear(linear(x_RD, directions_DK.T) * self.gains_K.to(x_RD), directions_DK)
        return x_RD - kept_RD if self.complement else kept_RD

    def to(self, device: torch.device, dtype: torch.dtype) -> "Subspace":
        """The same filter on another device and in another precision."""
        return Subspace(self.directions_DK.to(device, dtype), self.gains_K.to(device, dtype), self.complement)
