"""Intruder dimensions: leading left singular vectors of a tuned weight that resemble none of the base's.

Source: arXiv 2410.21228, with the numbers of PEFT's `reduce_intruder_dimension`: the first 10, cosine below 0.5.

Shape legend: O outputs, I inputs, M the smaller of both.
"""

import torch
from torch import Tensor

NUM_LEADING = 10
LEAST_COSINE = 0.5
LARGEST_SIDE = 1024
"""Matrices whose smaller side is longer are left out: their decompositions would cost more than all the rest."""
SMALLEST_VALUE = 1e-6
"""Singular values below this times the largest have directions that are rounding."""


def is_affordable(shape: tuple[int, ...]) -> bool:
    """Whether the intruders of a weight of that shape are counted."""
    return len(shape) == 2 and min(shape) > NUM_LEADING and min(shape) <= LARGEST_SIDE


def count_intruders(base_OI: Tensor, tuned_OI: Tensor) -> int:
    """Number of the first 10 left singular vectors of `tuned_OI` whose cosine with each of the base's is below 0.5."""
    base_OM, tuned_OM = left_vectors(base_OI), left_vectors(tuned_OI)
    cosines = (tuned_OM[:, :NUM_LEADING].T @ base_OM).abs().max(dim=1).values
    return int((cosines < LEAST_COSINE).sum())


def left_vectors(weight_OI: Tensor) -> Tensor:
    """Left singular vectors (O, M), largest singular value first, from the Gram matrix of the smaller side."""
    weight_OI = weight_OI.double()
    if weight_OI.shape[0] <= weight_OI.shape[1]:
        _, vectors_OO = torch.linalg.eigh(weight_OI @ weight_OI.T)
        return vectors_OO.flip(1)
    squares_I, vectors_II = torch.linalg.eigh(weight_OI.T @ weight_OI)
    sizes_I = squares_I.clamp_min(0).sqrt().flip(0)
    is_known_I = sizes_I > SMALLEST_VALUE * sizes_I[0]
    return (weight_OI @ vectors_II.flip(1)[:, is_known_I]) / sizes_I[is_known_I]
