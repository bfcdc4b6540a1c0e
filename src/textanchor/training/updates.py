"""How far the trained weights have moved from where they started, on the merged weight where LoRA makes the update.

Shape legend: O outputs, I inputs of a linear, R rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from textanchor.training.trainable import trained_parameters
from textanchor.vlm.names import base_parameters, peft_layers
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
    """Copies of the tensors that are trained in full; a LoRA update needs none, because its base layer is the start."""

    def __init__(self, parts: VLMParts):
        self.parts = parts
        layers = peft_layers(parts.model)
        self.full = {
            name: parameter.detach().clone()
            for name, parameter in trained_parameters(parts.model).items()
            if not any(name.startswith(f"{layer}.lora_") for layer in layers)
        }

    @torch.no_grad()
    def updates(self) -> Iterator[Update]:
        """Every tensor that was trained, by its name in the plain model, with W - W0."""
        now = base_parameters(self.parts.model)
        for name, start in self.full.items():
            yield self._update(name, start, now[name] - start)
        for layer_name, layer in peft_layers(self.parts.model).items():
            a_RI, b_OR, scaling = lora_factors(layer)
            name = f"{layer_name}.weight"
            yield self._update(name, now[name], scaling * (b_OR @ a_RI))

    def _update(self, name: str, start: Tensor, delta: Tensor) -> Update:
        return Update(name, self.parts.part_of(name), delta, float(start.norm()), float((start + delta).norm()))


def lora_factors(layer: nn.Module) -> tuple[Tensor, Tensor, float]:
    """A (R, I), B (O, R) and the scaling of a PEFT LoRA layer, whose update is scaling * B A."""
    a_RI = layer.get_submodule(f"lora_A.{ADAPTER}").get_parameter("weight")
    b_OR = layer.get_submodule(f"lora_B.{ADAPTER}").get_parameter("weight")
    return a_RI, b_OR, float(layer.scaling[ADAPTER])  # pyright: ignore[reportIndexIssue, reportArgumentType]
