"""Two int8 quantisers as small as they can be, of the two kinds that hold their integers in different places."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round().to(torch.int8), scale


class Int8Weight(Tensor):
    """Tensor subclass around integers and scales, as torchao's: it says that it is floating point, and is not."""

    values: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, values: Tensor, scale: Tensor) -> "Int8Weight":
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=scale.dtype)  # pyright: ignore

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        self.values, self.scale = values, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["values", "scale"], None

    def dequantize(self) -> Tensor:
        return self.values.to(self.scale) * self.scale

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            inputs, weight, *bias = args
            return F.linear(inputs, weight.dequantize(), *bias, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return Int8Weight(args[0].values, args[0].scale)
        raise NotImplementedError(f"{func} of quantised weights")


class Int8Linear(nn.Linear):
    """Linear whose weight is a plain int8 parameter, as that of bitsandbytes: only the layer knows the scale."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight.to(input.dtype) * self.get_buffer("scale").to(input.dtype)
        return F.linear(input, weight, self.bias)


def quantize_by_subclass(linear: nn.Linear) -> None:
    """Put an `Int8Weight` in place of the weight."""
    weight = Int8Weight(*_quantized(linear.weight.detach()))
    linear.weight = nn.Parameter(weight, requires_grad=False)


def quantize_by_layer(linear: nn.Linear) -> None:
    """Make it an `Int8Linear`."""
    values, scale = _quantized(linear.weight.detach())
    linear.__class__ = Int8Linear
    linear.weight = nn.Parameter(values, requires_grad=False)
    linear.register_buffer("scale", scale)


QUANTIZERS = {"tensor subclass": quantize_by_subclass, "linear subclass": quantize_by_layer}
