"""A random linear map that writes into a band only, with a given energy at its outputs.

Shape legend: N states, H width of the inputs, D width of the outputs, K directions.
"""

import torch
from torch import Tensor


def random_writing(directions_DK: Tensor, inputs_NH: Tensor, energy: float, *, seed: int) -> Tensor:
    """(D, H) change eps U R of a weight, R Gaussian, with E||eps U R h||^2 = `energy` on the inputs."""
    generator = torch.Generator().manual_seed(seed)
    shape = (directions_DK.shape[1], inputs_NH.shape[1])
    random_KH = torch.randn(shape, generator=generator, dtype=torch.float64)
    inputs_NH = inputs_NH.double()
    found = float((inputs_NH @ random_KH.T).square().sum(1).mean())  # U has orthonormal columns
    return directions_DK.double() @ random_KH * (energy / found) ** 0.5
