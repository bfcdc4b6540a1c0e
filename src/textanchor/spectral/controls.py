"""Directions to compare chosen ones with: random ones, and those of least energy."""

import hashlib

import torch

from textanchor.spectral.basis import Basis, with_fixed_signs


def random_basis(basis: Basis, name: str) -> Basis:
    """As many random orthonormal directions, uniform over all rotations; the same for the same name.

    Energies are those of the true directions, so that the n-th random one takes the place of the n-th true one; sinks
    are replaced like all others.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
    width = len(basis.directions_DK)
    gaussian_DD = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    directions_DD = with_fixed_signs(torch.linalg.qr(gaussian_DD)[0])
    directions_DK = directions_DD[:, : basis.directions_DK.shape[1]].to(basis.directions_DK)
    return Basis(directions_DK, basis.energies_K, num_sinks=0)


def bottom_basis(basis: Basis) -> Basis:
    """The same directions, smallest energy first; sinks come last."""
    order_K = torch.arange(len(basis.energies_K) - 1, -1, -1)
    rest_K = torch.argsort(basis.energies_K[basis.num_sinks :], stable=True) + basis.num_sinks
    order_K[: len(rest_K)] = rest_K
    return Basis(basis.directions_DK[:, order_K].contiguous(), basis.energies_K[order_K], num_sinks=0)
