"""Change a model for the length of a block: other weights, or another function behind a module."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bands.removal import Removal
from textanchor.errors import ModelError
from textanchor.vlm.names import plain_parameters

Change = Callable[[tuple[Any, ...], Tensor], Tensor]
"""Inputs and output of a module to what it gives instead."""


@contextmanager
def weights_replaced(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block parameters (base names) have other values; afterwards they are the same tensors as before.

    ModelError for a name or a shape that the model does not have.
    """
    parameters = plain_parameters(model)
    for name, value in values.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise ModelError(f"{type(model).__name__} has no parameter {name!r} of shape {tuple(value.shape)}")
    before = {name: parameters[name].data for name in values}
    try:
        for name, value in values.items():
            parameters[name].data = value.detach().to(before[name])
        yield
    finally:
        for name, tensor in before.items():
            parameters[name].data = tensor


@contextmanager
def outputs_changed(module: nn.Module, change: Change) -> Iterator[None]:
    """Within the block the module gives what `change` makes of its inputs and output."""

    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise ModelError(f"{type(module).__name__} gives a {type(output).__name__}; a change needs one tensor")
        return change(args, output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def part_put_back(base: nn.Module, removal: Removal) -> Change:
    """y = f(v) - U diag(g) U^T (f(v) - f0(v)), `base` being the module that computes f0."""

    @torch.no_grad()
    def change(args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output - removal.removed(output - base(*args))

    return change
