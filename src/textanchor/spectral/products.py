"""Products of float32 matrices on a processor through the faster of the two libraries that torch carries.

Torch hands plain float32 products to MKL, which on AVX-512 processors of other makers than its own uses half of their
width (100 of 210 GFLOP/s of one core of an EPYC, `benchmarks/products.py`; with AVX2 alone 108 of 122); oneDNN, which
torch uses for other types and in compiled models, does not. Both add up float32 products in float32, in another order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b, as `torch.nn.functional.linear`; where a gradient is asked for, it is that function."""
    if _one_dnn_serves(x, weight_OI):
        return torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
    return F.linear(x, weight_OI, bias_O)


def _one_dnn_serves(x: Tensor, weight: Tensor) -> bool:
    return (
        HAS_FASTER
        and not torch.is_grad_enabled()
        and type(x) is Tensor
        and type(weight) in (Tensor, Parameter)  # no shards, no quantised weights
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and weight.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def _has_faster() -> bool:
    """Whether this torch has the operator, and the processor is of a kind on which it was measured to pay."""
    was_measured = torch.backends.cpu.get_cpu_capability() in ("AVX512", "AVX2")
    return was_measured and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


HAS_FASTER = _has_faster()
