"""gradients="projected": the protected part is kept out of the gradients too, so that clipping and the optimizer's
moments are those of what is learned. The rule after each step stays: a projected gradient alone does not hold a weight.

It acts as soon as all gradients of a linear have been accumulated in a backward pass, so before they are clipped;
projecting a sum of micro-batches is projecting each.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from textanchor.errors import HoldError
from textanchor.holds.bound import BoundLinear


class GradientProjection:
    """Watches the gradients of held linears until `remove()`."""

    def __init__(self, bound: Sequence[BoundLinear]) -> None:
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise HoldError(
                "gradients='projected' acts before the processes exchange gradients, so it is for one process; set "
                "gradients='whole', under which the weights are held all the same"
            )
        self._handles: list[Any] = []
        for linear in bound:
            arrived: set[int] = set()
            for tensor in linear.tensors:
                self._handles.append(tensor.register_post_accumulate_grad_hook(_projecting(linear, arrived)))

    def remove(self) -> None:
        """Leave the gradients alone."""
        for handle in self._handles:
            handle.remove()


def _projecting(linear: BoundLinear, arrived: set[int]):
    @torch.no_grad()
    def hook(tensor: Tensor) -> None:
        arrived.add(id(tensor))
        if len(arrived) == len(linear.tensors):
            arrived.clear()
            gradients = tuple(held.grad for held in linear.tensors if held.grad is not None)
            replace(linear, tensors=gradients, reference=None).damp(0.0)

    return hook
