"""Additive summaries of states: what measures that stream in N, and the jackknife, keep of them.

Shape legend: N tokens, D width, E and F widths of a first and a second sample, Z = E + F.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from textanchor.errors import DataError
from textanchor.geometry.inputs import as_pair, as_states, unit_rows
from textanchor.spectral import Moments, MomentsStream


@dataclass(frozen=True)
class StateMoments:
    """Moments of states, with the two averages that moments do not give."""

    moments: Moments
    """Of the states as they are, or at length 1 (`moments.unit_norm`)."""
    mean_unit_D: Tensor
    """Mean of x / ||x||."""
    mean_norm: float
    """Mean of ||x||."""

    @classmethod
    def of(cls, states_ND: Tensor, *, unit_norm: bool = False) -> "StateMoments":
        """Summary of one batch; DataError where a state is not finite or all zeros."""
        x_ND = as_states(states_ND)
        unit_ND = unit_rows(x_ND)
        stream = MomentsStream(x_ND.shape[1], unit_norm=unit_norm)
        stream.add(x_ND)
        mean_norm = float(torch.linalg.vector_norm(x_ND, dim=1).mean())
        return cls(stream.moments(), unit_ND.mean(dim=0), mean_norm)

    @property
    def count(self) -> float:
        """Number of tokens."""
        return self.moments.count

    def merged(self, other: "StateMoments") -> "StateMoments":
        """Summary of both samples together."""
        share = other.count / (self.count + other.count)
        return StateMoments(
            self.moments.merged(other.moments),
            torch.lerp(self.mean_unit_D, other.mean_unit_D, share),
            self.mean_norm + share * (other.mean_norm - self.mean_norm),
        )


@dataclass(frozen=True)
class PairMoments:
    """Sums over paired states x, y (seen from `origin_Z`) that give the debiased linear CKA exactly."""

    origin_Z: Tensor
    first_width: int
    count: int
    sum_Z: Tensor
    """Sum of z = [x; y] - origin."""
    outer_ZZ: Tensor
    """Sum of z z^T."""
    norms_22: Tensor
    """Sums of the products of ||x||^2 and ||y||^2: xx, xy; yx, yy."""
    weighted_2Z: Tensor
    """Sum of z ||x||^2 and sum of z ||y||^2."""

    @classmethod
    def of(cls, first_NE: Tensor, second_NF: Tensor, *, origin_Z: Tensor | None = None) -> "PairMoments":
        """Sums of one batch; every batch of a sample takes the `origin_Z` of its first (any point near the mean)."""
        first_NE, second_NF = as_pair(first_NE, second_NF)
        z_NZ = torch.cat([first_NE, second_NF], dim=1)
        if origin_Z is None:
            origin_Z = z_NZ.mean(dim=0)
        z_NZ = z_NZ - origin_Z
        width = first_NE.shape[1]
        norms_N2 = torch.stack([z_NZ[:, :width].square().sum(1), z_NZ[:, width:].square().sum(1)], dim=1)
        return cls(origin_Z, width, len(z_NZ), z_NZ.sum(0), z_NZ.T @ z_NZ, norms_N2.T @ norms_N2, norms_N2.T @ z_NZ)

    def merged(self, other: "PairMoments") -> "PairMoments":
        """Sums of both samples together; DataError where they are seen from different origins."""
        if self.first_width != other.first_width or not torch.equal(self.origin_Z, other.origin_Z):
            raise DataError("sums of pairs can only be put together if they have the same widths and the same origin")
        return PairMoments(
            self.origin_Z,
            self.first_width,
            self.count + other.count,
            self.sum_Z + other.sum_Z,
            self.outer_ZZ + other.outer_ZZ,
            self.norms_22 + other.norms_22,
            self.weighted_2Z + other.weighted_2Z,
        )
