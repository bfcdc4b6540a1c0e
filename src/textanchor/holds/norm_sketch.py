"""What is kept of a weight before training to tell how far it has moved, where the weight itself is not kept.

For vectors s of random signs E||Delta s||^2 = ||Delta||_F^2, so the products X0 S with a few of them are enough. Their
mean is right on average; for a change of rank one, the worst case, its standard deviation is sqrt(2 / S) of the energy,
with 32 signs 12 % of the norm, and less the more directions the change has.
Source: Achlioptas (2003), "Database-friendly random projections", section 2.

Shape legend: R rows of X (see `linear.py`), D width of the filtered space, S vectors of signs.
"""

import hashlib

import torch
from torch import Tensor

NUM_SIGNS = 32


def saves_memory(width: int, dtype: torch.dtype) -> bool:
    """Whether the products, in float64, are less than the matrix."""
    return width * dtype.itemsize > NUM_SIGNS * torch.float64.itemsize


def random_signs(width: int, like: Tensor) -> Tensor:
    """(D, S) entries -1 and 1 on the device of `like` and of its type; the same on every machine, as they are saved."""
    digest = bytearray(hashlib.shake_256(b"random signs").digest(width * NUM_SIGNS // 8))
    bytes_D1 = torch.frombuffer(digest, dtype=torch.uint8).reshape(width, NUM_SIGNS // 8, 1)
    bits_DS = (bytes_D1 >> torch.arange(8, dtype=torch.uint8)).bitwise_and(1).reshape(width, NUM_SIGNS)
    return bits_DS.to(like) * 2 - 1
