"""What makes a step in bfloat16 faster on a processor without a change of what is computed.

Notable, on two cores with avx512_bf16, 8 conversations of 37 tokens, the embedded model:
- autocast casts every frozen weight at every pass, a seventh of a step; `cast_once` does it once;
- the backward pass of torch 2.13's fused attention takes four times as long in bfloat16 as the three plain products,
  which need the memory of all attention weights and so are for short sequences.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from textanchor.vlm.fast_linears import forwards_replaced, is_plain_linear

SHORT = 256
"""Tokens up to which plain attention was the faster one, and its weights are small beside the other activations."""


@contextmanager
def cast_once(model: nn.Module) -> Iterator[None]:
    """Within it every frozen float32 linear holds a bfloat16 copy of its weight, and uses it under bfloat16 autocast.

    The result is that of autocast bit for bit. Frozen weights must not be written within it.
    """
    linears = [module for module in model.modules() if _is_frozen_linear(module)]
    with forwards_replaced(linears, _cast_forward):
        yield


def _is_frozen_linear(module: nn.Module) -> bool:
    frozen = all(p.dtype == torch.float32 and not p.requires_grad for p in module.parameters())
    return is_plain_linear(module) and frozen


def _cast_forward(linear: nn.Module) -> Callable[[Tensor], Tensor]:
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.detach().to(torch.bfloat16)
    bias = None if linear.bias is None else linear.bias.detach().to(torch.bfloat16)
    device = linear.weight.device.type

    def forward(x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16:
            return F.linear(x, weight, bias)
        return F.linear(x, linear.weight, linear.bias)

    return forward


def attention_for(device: torch.device, num_tokens: int, *, bfloat16: bool) -> AbstractContextManager[object]:
    """The kernels of attention for a pass over sequences of so many tokens: torch's own choice but where it is slow."""
    if device.type == "cpu" and bfloat16 and num_tokens <= SHORT:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
