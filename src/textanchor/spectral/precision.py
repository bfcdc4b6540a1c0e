"""In what precision sums and products are formed: what autocast and TF32 may not touch, and what needs float64.

float32 is enough for a rule where a change is known before it is multiplied (all of X0 is kept, or X0 is 0), as
rounding is then relative to the change; sums that nearly cancel, moments and audits are added up in float64.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor


def working(tensors: Iterable[Tensor]) -> torch.dtype:
    """Type of directions and products for these weights."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def precise(device: torch.device) -> torch.dtype:
    """Type of sums that nearly cancel: float64; float32 where the device has nothing better."""
    return torch.float32 if device.type == "mps" else torch.float64


@contextmanager
def unrounded(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Products with these tensors in float32, whatever autocast, TF32 or bfloat16 products are set to."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # pyright: ignore[reportAttributeAccessIssue]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with ExitStack() as without_autocast:
            for device in {tensor.device.type for tensor in tensors}:
                without_autocast.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
