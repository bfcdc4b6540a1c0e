"""Angles between subspaces, energy of states in a subspace, and the bases that serve as controls.

Shape legend: N tokens, D width, K directions.
"""

import torch
from torch import Tensor

from textanchor.errors import DataError, HoldError
from textanchor.geometry.inputs import as_states, require_same_width, unit_rows
from textanchor.geometry.spectra import covariance_of
from textanchor.spectral import Moments, metric_basis

RANK_TOLERANCE = 1e-10  # relative to the largest singular value or variance


def principal_angles(first_DK: Tensor, second_DK: Tensor) -> Tensor:
    """Principal angles in radians, smallest first, between the spans of the columns; as many as the narrower has.

    From cosines and sines both (Bjorck and Golub 1973), so that angles near 0 are as accurate as others. O(D K^2).
    DataError where widths differ, columns are dependent, or the decomposition fails.
    """
    wide_DK, narrow_DK = _orthonormal(first_DK, "first basis"), _orthonormal(second_DK, "second basis")
    require_same_width(len(wide_DK), len(narrow_DK))
    if wide_DK.shape[1] < narrow_DK.shape[1]:
        wide_DK, narrow_DK = narrow_DK, wide_DK
    overlap_KK = wide_DK.T @ narrow_DK
    cosines_K = _svdvals(overlap_KK)
    sines_K = _svdvals(narrow_DK - wide_DK @ overlap_KK).flip(0)
    return torch.atan2(sines_K, cosines_K)


def subspace_overlap(first_DK: Tensor, second_DK: Tensor) -> float:
    """Mean squared cosine of the principal angles: 1 where one span holds the other, about K / D for random ones.

    The larger K of the two in K / D. It is smooth where single angles are not (equal angles, angles of 0), so its
    interval is the one to rely on. O(D K^2). DataError as `principal_angles`.
    """
    return float(principal_angles(first_DK, second_DK).cos().square().mean())


def principal_directions(sample: Tensor | Moments, num_directions: int) -> Tensor:
    """(D, K) leading eigenvectors of the centred covariance, largest variance first, signs fixed.

    DataError where the states vary in fewer than K directions: the others would be arbitrary.
    """
    try:
        basis = metric_basis(covariance_of(sample)[1])
    except HoldError as error:
        raise DataError(f"no principal directions: {error}") from error
    rank = int((basis.energies_K > RANK_TOLERANCE * basis.energies_K[0]).sum())
    if not 1 <= num_directions <= rank:
        raise DataError(
            f"asked for {num_directions} directions of states that vary in {rank}; ask for fewer, or measure more"
        )
    return basis.directions_DK[:, :num_directions]


def subspace_energy(sample: Tensor | Moments, basis_DK: Tensor) -> float:
    """Mean over tokens of ||P x||^2 / ||x||^2, P the projection onto the span of the columns; chance is K / D.

    Each token counts the same: moments must be those of states at length 1. O(N D K), from moments O(D^2 K).
    DataError where widths differ, columns are dependent, or tokens are all zeros.
    """
    directions_DK = _orthonormal(basis_DK, "basis")
    if isinstance(sample, Moments):
        if not sample.unit_norm:
            raise DataError("shares of energy need moments of states at length 1; gather them with unit_norm=True")
        require_same_width(sample.width, len(directions_DK))
        second_DD = sample.second_DD
        return float((directions_DK * (second_DD @ directions_DK)).sum() / second_DD.trace())
    x_ND = as_states(sample)
    require_same_width(x_ND.shape[1], len(directions_DK))
    return float((unit_rows(x_ND) @ directions_DK).square().sum(dim=1).mean())


def random_directions(width: int, num_directions: int, *, seed: int) -> Tensor:
    """(D, K) orthonormal directions drawn uniformly: a control with an expected energy share of K / D in any states."""
    if not 1 <= num_directions <= width:
        raise DataError(f"a space of {width} dimensions has 1 to {width} directions, asked for {num_directions}")
    generator = torch.Generator().manual_seed(seed)
    gaussian_DK = torch.randn(width, num_directions, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(gaussian_DK).Q


def shuffled_directions(states_ND: Tensor, num_directions: int, *, seed: int) -> Tensor:
    """(D, K) principal directions after each coordinate's values were permuted over the tokens on their own.

    The control keeps mean and variance of every coordinate (outlier dimensions too) and breaks what ties them together.
    """
    x_ND = as_states(states_ND, least=2)
    order_ND = torch.rand(x_ND.shape, generator=torch.Generator().manual_seed(seed)).argsort(dim=0)
    return principal_directions(x_ND.gather(0, order_ND), num_directions)


def _orthonormal(basis_DK: Tensor, name: str) -> Tensor:
    """Orthonormal columns with the same span; DataError where the columns are dependent."""
    basis_DK = as_states(basis_DK, name)
    width, num_directions = basis_DK.shape
    sizes_K = _svdvals(basis_DK)
    if num_directions > width or float(sizes_K[-1]) <= RANK_TOLERANCE * float(sizes_K[0]):
        raise DataError(f"{name}: the {num_directions} columns of width {width} are not independent; give a basis")
    return torch.linalg.qr(basis_DK).Q


def _svdvals(matrix: Tensor) -> Tensor:
    try:
        return torch.linalg.svdvals(matrix)
    except RuntimeError as error:  # torch.linalg.LinAlgError, which torch does not export
        raise DataError(f"decomposing a {tuple(matrix.shape)} product of bases failed ({error})") from error
