"""States whose geometry is known by construction."""

import torch
from torch import Tensor


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(num_rows: int, width: int, seed: int = 0) -> Tensor:
    """(N, D) isotropic Gaussian states in float64."""
    return torch.randn(num_rows, width, generator=generator_of(seed), dtype=torch.float64)


def rotation(width: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(gaussian(width, width, seed)).Q


def cone(num_rows: int = 60, width: int = 7, seed: int = 0) -> Tensor:
    """Correlated states around a mean off the origin, as language models have them."""
    mixing = gaussian(width, width, seed + 1000) + torch.diag(torch.arange(width, dtype=torch.float64))
    return gaussian(num_rows, width, seed) @ mixing + torch.linspace(-1, 3, width, dtype=torch.float64)


def turned_subspace(first_DK: Tensor, away_DK: Tensor, angles_K: Tensor) -> Tensor:
    """Basis whose k-th direction is the k-th of `first` turned by an angle towards the k-th of `away`."""
    return first_DK * angles_K.cos() + away_DK * angles_K.sin()
