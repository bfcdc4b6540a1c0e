"""How far the trained weights have moved from where they started, on the merged weight where an adapter makes the
update.

Shape legend: O outputs, I inputs of a linear, R rank.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.training.trainable import trained_parameters
from textanchor.vlm.modes import evaluating
from textanchor.vlm.names import base_parameters, peft_layers, plain_parameters
from textanchor.vlm.parts import VLMParts

ADAPTER = "default"
"""PEFT's name for the one adapter of a run."""


@dataclass(frozen=True)
class Update:
    """Change of one tensor of the plain model, with its Frobenius norm at the start and now."""

    name: str
    part: str
    delta: Tensor
    start_norm: float
    norm: float


class StartWeights:
    """Copies of the tensors that are trained in full; an adapter's update needs none, because its base layer stays.

    Where an adapter starts at an update that is not zero (CorDA, LoRA-Null), that update was taken from its base layer
    and is part of the start: it is kept, and changes count from base layer and it together.
    """

    def __init__(self, parts: VLMParts):
        self.parts = parts
        plain = plain_parameters(parts.model)
        self.full = {
            name: parameter.detach().clone()
            for name, parameter in trained_parameters(parts.model).items()
            if name in plain
        }
        first = {name: adapter_update(layer).detach() for name, layer in peft_layers(parts.model).items()}
        self.first_updates = {name: update for name, update in first.items() if update.any()}

    @torch.no_grad()
    def updates(self) -> Iterator[Update]:
        """Every tensor that was trained, by its name in the plain model, with W - W0."""
        now = base_parameters(self.parts.model)
        for name, start in self.full.items():
            yield self._update(name, start, now[name] - start)
        for layer_name, layer in peft_layers(self.parts.model).items():
            name, delta, start = f"{layer_name}.weight", adapter_update(layer), now[f"{layer_name}.weight"]
            if layer_name in self.first_updates:
                first = self.first_updates[layer_name]
                delta, start = delta - first, start + first
            yield self._update(name, start, delta)

    @torch.no_grad()
    def scale_updates(self, factors: Mapping[str, float]) -> None:
        """W0 + factor (W - W0), with the factor of the part that each tensor belongs to; LoRA from zero only."""
        now = base_parameters(self.parts.model)
        for name, start in self.full.items():
            now[name].copy_(start + factors[self.parts.part_of(name)] * (now[name] - start))
        assert not self.first_updates  # no method that scales makes such adapters
        for name, layer in peft_layers(self.parts.model).items():
            _, b_OR, _ = lora_factors(layer)
            b_OR.mul_(factors[self.parts.part_of(name)])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model is the one of the start, in eval mode; what was computed before can still go backward."""
        now = base_parameters(self.parts.model)
        trained: dict[str, Tensor] = {name: now[name].data for name in self.full}
        scalings: list[tuple[Any, float]] = [
            (layer.scaling, float(layer.scaling[ADAPTER]))  # pyright: ignore[reportIndexIssue, reportArgumentType]
            for layer in peft_layers(self.parts.model).values()
        ]
        for name, start in self.full.items():
            now[name].data = start
        for scaling, _ in scalings:
            scaling[ADAPTER] = 0.0
        try:
            with evaluating(self.parts.model):
                yield
        finally:
            for name, tensor in trained.items():
                now[name].data = tensor
            for scaling, value in scalings:
                scaling[ADAPTER] = value

    def _update(self, name: str, start: Tensor, delta: Tensor) -> Update:
        return Update(name, self.parts.part_of(name), delta, float(start.norm()), float((start + delta).norm()))


def adapter_update(layer: nn.Module) -> Tensor:
    """What a PEFT layer adds to the weight of its base layer, (O, I)."""
    return layer.get_delta_weight(ADAPTER)  # pyright: ignore[reportCallIssue]


def lora_factors(layer: nn.Module) -> tuple[Tensor, Tensor, float]:
    """A (R, I), B (O, R) and the scaling of a PEFT LoRA layer, whose update is scaling * B A."""
    a_RI = layer.get_submodule(f"lora_A.{ADAPTER}").get_parameter("weight")
    b_OR = layer.get_submodule(f"lora_B.{ADAPTER}").get_parameter("weight")
    return a_RI, b_OR, float(layer.scaling[ADAPTER])  # pyright: ignore[reportIndexIssue, reportArgumentType]
