"""The projector on held-out images: what enters it, what it gives, and how its update changes that.

Shape legend: N visual tokens, D width of text space, O outputs, E inputs with the constant.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bands.directions import Bands
from bands.inputs import Deltas, LinearUpdate
from textanchor.errors import ModelError
from textanchor.vlm.parts import VLMParts
from textanchor.vlm.passes import image_inputs, run_images

BATCH_SIZE = 16


def projector_module(parts: VLMParts) -> nn.Module:
    """The one module that is the whole projector; ModelError where it is none or several."""
    if parts.projector != (parts.projector_output,):
        raise ModelError(
            f"the projector of this model is {', '.join(parts.projector)}; bands are taken out of projectors that are "
            "one module, because a frozen copy of it has to compute f0"
        )
    return parts.module(parts.projector_output)


@torch.no_grad()
def projector_inputs(parts: VLMParts, processor: Any, images: Sequence[Any]) -> list[Tensor]:
    """What the projector is given for images, batch by batch."""
    seen: list[Tensor] = []
    handle = projector_module(parts).register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    try:
        for start in range(0, len(images), BATCH_SIZE):
            run_images(parts, image_inputs(parts, processor, images[start : start + BATCH_SIZE]))
    finally:
        handle.remove()
    return seen


@dataclass(frozen=True)
class TunedProjector:
    """A projector before and after tuning, in float64, with the inputs on which their difference is measured."""

    base: nn.Module
    tuned: nn.Module
    inputs: tuple[Tensor, ...]
    prefix: str
    """Base name of the projector's module."""

    @classmethod
    def of(cls, parts: VLMParts, values: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> "TunedProjector":
        """`values` are the tuned tensors by base name; the model holds those before tuning."""
        module, prefix = projector_module(parts), parts.projector_output
        base = copy.deepcopy(module).double().requires_grad_(False)
        return cls(base, _with_values(base, values, prefix), tuple(x.double() for x in inputs), prefix)

    @cached_property
    def start_ND(self) -> Tensor:
        """f0(v)."""
        return self._outputs(self.base)

    @cached_property
    def end_ND(self) -> Tensor:
        """f(v)."""
        return self._outputs(self.tuned)

    def drift(self) -> Tensor:
        """(N, D) f(v) - f0(v)."""
        return self.end_ND - self.start_ND

    def updates(self, bands: Bands, name: str) -> list[LinearUpdate]:
        """Change of every linear, and the directions of a band of its inputs.

        ModelError where anything but linears was changed, which no band of inputs would cover.
        """
        linears = _linears(self.base)
        own = {f"{path}.{kind}" for path, linear in linears.items() for kind, _ in linear.named_parameters()}
        before = dict(self.base.named_parameters())
        for path, parameter in self.tuned.named_parameters():
            if path not in own and not torch.equal(parameter, before[path]):
                raise ModelError(f"{self.prefix}.{path} was tuned and belongs to no linear; give it no band of inputs")
        tuned = _linears(self.tuned)
        return [
            LinearUpdate(
                path,
                _augmented(tuned[path]) - _augmented(linear),
                bands.inputs(name, f"{self.prefix}.{path}", with_constant=linear.bias is not None),
            )
            for path, linear in linears.items()
        ]

    def values(self, deltas: Deltas) -> dict[str, Tensor]:
        """Tensors by base name of the base with other changes of its linears."""
        values: dict[str, Tensor] = {}
        for path, linear in _linears(self.base).items():
            delta_OE = deltas[path]
            width = linear.in_features
            values[f"{self.prefix}.{path}.weight"] = linear.weight + delta_OE[:, :width]
            if linear.bias is not None:
                values[f"{self.prefix}.{path}.bias"] = linear.bias + delta_OE[:, width]
        return values

    def removed_by(self, deltas: Deltas) -> float:
        """E||f(v) - y(v)||^2 / E||f(v) - f0(v)||^2, y having these changes of its linears."""
        edited = _with_values(self.base, self.values(deltas), self.prefix)
        return float((self.end_ND - self._outputs(edited)).square().sum() / self.drift().square().sum())

    @torch.no_grad()
    def _outputs(self, module: nn.Module) -> Tensor:
        rows = [module(x) for x in self.inputs]
        return torch.cat([row.reshape(-1, row.shape[-1]) for row in rows])


def _linears(module: nn.Module) -> dict[str, nn.Linear]:
    return {path: linear for path, linear in module.named_modules() if isinstance(linear, nn.Linear)}


def _augmented(linear: nn.Linear) -> Tensor:
    """[W, b], or W where there is no bias."""
    weight_OI = linear.weight.detach()
    return weight_OI if linear.bias is None else torch.cat([weight_OI, linear.bias.detach()[:, None]], dim=1)


@torch.no_grad()
def _with_values(module: nn.Module, values: Mapping[str, Tensor], prefix: str) -> nn.Module:
    changed = copy.deepcopy(module)
    parameters = dict(changed.named_parameters())
    for name, value in values.items():
        parameters[name.removeprefix(f"{prefix}.")].copy_(value)
    return changed
