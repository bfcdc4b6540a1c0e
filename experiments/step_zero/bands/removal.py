"""Take a band out of a change, exactly so much of it as carries a given share of the change's energy.

Shape legend: N rows (states, or rows of a weight), D width, K directions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bands.directions import Band
from textanchor.errors import DataError


@dataclass(frozen=True)
class Removal:
    """d -> d - d U diag(g) U^T: what is taken out of a change d."""

    band: str
    directions_DK: Tensor
    """U, only the directions that are touched."""
    gains_K: Tensor

    @property
    def num_directions(self) -> int:
        """Directions that are touched, the last of them perhaps in part."""
        return len(self.gains_K)

    def removed(self, change_ND: Tensor) -> Tensor:
        """The part that is taken out."""
        directions_DK, gains_K = self.directions_DK.to(change_ND), self.gains_K.to(change_ND)
        return ((change_ND @ directions_DK) * gains_K) @ directions_DK.T

    def kept(self, change_ND: Tensor) -> Tensor:
        """The change without that part."""
        return change_ND - self.removed(change_ND)


def remove_share(band: Band, change_ND: Tensor, share: float) -> Removal:
    """The leading directions of a band whose part of the change has `share` of its energy, the last one in part.

    Energy is the mean of ||.||^2 over rows. What is removed with gains g_k has the energy sum_k g_k^2 E(u_k . d)^2;
    identity has all gains sqrt(share), so that it is interpolation with alpha = 1 - sqrt(share).
    """
    directions_DK = band.directions_DK.to(change_ND)
    if band.uniform:
        gains_K = torch.full_like(directions_DK[0], share**0.5)
        return Removal(band.name, directions_DK, gains_K)
    energies_K = (change_ND @ directions_DK).square().mean(0)
    gains_K = gains_for_share(energies_K, share, float(change_ND.square().sum(1).mean()))
    taken_K = gains_K > 0
    return Removal(band.name, directions_DK[:, taken_K], gains_K[taken_K])


def remove_leading(band: Band, num_directions: int) -> Removal:
    """The first directions of a band, in full: y = P f0 + (I - P) f."""
    directions_DK = band.directions_DK[:, :num_directions]
    return Removal(band.name, directions_DK, torch.ones_like(directions_DK[0]))


def gains_for_share(energies_K: Tensor, share: float, total: float) -> Tensor:
    """1 for the leading directions, sqrt(rest / energy) for the next, 0 behind: sum g^2 e = share * total.

    DataError where all directions together carry less than that.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, found {share}")
    target = share * total
    sums_K = torch.cumsum(energies_K, 0)
    if float(sums_K[-1]) < target * (1 - 1e-9):
        raise DataError(f"the band carries {float(sums_K[-1]) / total:.3f} of the energy, less than the share {share}")
    before_K = sums_K - energies_K
    left_K = (target - before_K).clamp_min(0)
    return (left_K / energies_K.clamp_min(torch.finfo(energies_K.dtype).tiny)).clamp(max=1).sqrt()
