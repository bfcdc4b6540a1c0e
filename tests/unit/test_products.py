"""Products by the faster library are those of torch, in every layout, and keep out of where it has no business."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from textanchor.evaluation.suite import measuring
from textanchor.spectral import products
from textanchor.vlm.fast_linears import fast_linears

FASTER = torch.ops.mkldnn._linear_pointwise.default
needs_faster = pytest.mark.skipif(not products.HAS_FASTER, reason="neither AVX2 nor AVX-512")


class Faster(TorchDispatchMode):
    """Counts the products of the faster library."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func == FASTER
        return func(*args, **(kwargs or {}))


def inputs() -> Iterator[Tensor]:
    yield torch.randn(3, 5, 7)
    yield torch.randn(7, 5).T
    yield torch.randn(10, 14)[:, ::2]
    yield torch.randn(2, 3, 14)[..., 3:10]
    yield torch.randn(3, 7).expand(2, 3, 7)
    yield torch.randn(7)
    yield torch.randn(0, 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_layout_gives_what_torch_gives(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(4, 7), torch.randn(7, 4).T, torch.randn(8, 14)[::2, ::2], nn.Parameter(torch.randn(4, 7))]
    with torch.no_grad():
        for x in inputs():
            for weight in weights:
                for bias in (None, torch.randn(4, dtype=dtype)):
                    found = products.linear(x.to(dtype), weight.to(dtype), bias)
                    torch.testing.assert_close(found, F.linear(x.to(dtype), weight.to(dtype), bias))


@needs_faster
def test_gradients_autocast_and_float64_go_the_plain_way() -> None:
    x, weight = torch.randn(3, 7), torch.randn(4, 7)
    with torch.no_grad(), Faster() as faster:
        products.linear(x, weight)
        assert faster.calls == 1
        products.linear(x.double(), weight.double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert products.linear(x, weight).dtype == torch.bfloat16
        assert faster.calls == 1
    with Faster() as faster:
        products.linear(x, weight.requires_grad_()).sum().backward()
        assert faster.calls == 0 and weight.grad is not None


@needs_faster
def test_measuring_computes_linears_so_and_leaves_them_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(7, 5), nn.GELU(), nn.Linear(5, 3))
    x = torch.randn(2, 7)
    with torch.no_grad():
        expected = model(x)
    with measuring(model), measuring(model), Faster() as faster:
        torch.testing.assert_close(model(x), expected)
        assert faster.calls == 2
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_linear_with_a_forward_of_its_own_keeps_it() -> None:
    model = nn.Linear(2, 2)
    model.forward = lambda x: x + 1
    with torch.no_grad(), fast_linears(model):
        assert torch.equal(model(torch.zeros(2)), torch.ones(2))
    assert "forward" in vars(model)


def test_a_copy_made_while_measuring_computes_with_its_own_weights() -> None:
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad(), fast_linears(model):
        other = copy.deepcopy(model)
        other.weight.zero_()
        assert torch.equal(other(torch.ones(1, 2)), torch.zeros(1, 2))
