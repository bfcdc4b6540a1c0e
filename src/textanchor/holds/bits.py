"""Weights as they are stored: hashes of their bits, and quantised ones as numbers.

Quantisers keep integers in a plain tensor (bitsandbytes) or in a tensor subclass around several (torchao).
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def is_quantized(weight: Tensor) -> bool:
    """Whether the values are not the stored numbers themselves."""
    return not weight.is_floating_point() or _is_wrapper(weight)


def dense(weight: Tensor) -> Tensor | None:
    """The values of a weight; None where only its quantiser can tell them."""
    if not is_quantized(weight):
        return weight
    wrapper: Any = weight
    return wrapper.dequantize() if _is_wrapper(weight) and hasattr(wrapper, "dequantize") else None


def bit_hashes(tensor: Tensor) -> list[int]:
    """Torch's hash of the bits of each plain tensor that this one is made of."""
    if _is_wrapper(tensor):
        wrapper: Any = tensor
        return [number for name in wrapper.__tensor_flatten__()[0] for number in bit_hashes(getattr(tensor, name))]
    return [int(torch.hash_tensor(tensor.detach()).view(torch.int64))] if tensor.numel() else [0]


def _is_wrapper(tensor: Tensor) -> bool:
    return hasattr(tensor, "__tensor_flatten__") and not isinstance(tensor, DTensor)
