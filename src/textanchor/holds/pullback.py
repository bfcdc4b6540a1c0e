"""What a protected filter on the projector's outputs asks of the linears before the last one.

A change dz of an inner linear's outputs z changes what the next linear writes by W2 (phi'(z) * dz), so its protected
energy is dz^T M1 dz with M1 = (W2^T P W2) * E[phi'(z) phi'(z)^T], elementwise and to first order. As an elementwise
product of positive semidefinite matrices it is one itself (Schur); the mean derivative would not give the mean energy.

Shape legend: N tokens, H width of an inner linear's outputs, D width of text space.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from textanchor.errors import HoldError
from textanchor.holds.anchor import SLOPES, Anchor
from textanchor.spectral import MomentsStream, Subspace
from textanchor.vlm.names import base_modules, is_within, peft_layers
from textanchor.vlm.parts import VLMParts


def pulled_back(parts: VLMParts, anchor: Anchor, text_space: Subspace, name: str) -> Tensor:
    """(H, H) metric M1 at the outputs of the inner projector linear `name`; through several linears, step by step.

    HoldError where the anchor has no slopes for a linear on the way (it was fitted without images, or what lies between
    two linears is no elementwise activation).
    """
    linears = parts.projector_linears()
    writers, names = parts.text_writers(), list(linears)
    # of deepstack the projector in which the linear lies, else the one that all others lead to
    writer = next((last for last, path in writers.items() if is_within(name, path)), next(iter(writers)))
    names = names[: names.index(writer) + 1]
    metric = text_space.protected(torch.eye(text_space.width, dtype=torch.float64))
    for following, inner in zip(names[:0:-1], names[-2::-1], strict=True):
        if f"{SLOPES}/{inner}" not in anchor:
            raise HoldError(
                f"{inner}: inner='pullback' needs the slopes of an elementwise activation between it and {following}, "
                "seen on images; give images to fit_anchor, or choose inner='frozen' or mode='inputs'"
            )
        weight_DH = linears[following].weight.detach().to("cpu", torch.float64)
        metric = (weight_DH.T @ metric @ weight_DH) * anchor[f"{SLOPES}/{inner}"].second_DD
        if inner == name:
            return metric
    raise HoldError(f"{name}: not before the last projector linear; choose inner='frozen'")


class SlopesGatherer:
    """Streams phi'(z) of the activations that stand between two projector linears, found while the projector runs."""

    def __init__(self, parts: VLMParts) -> None:
        adapted = peft_layers(parts.model)
        self.linears = {adapted.get(name, linear): name for name, linear in parts.projector_linears().items()}
        modules = base_modules(parts.model).items()
        self.activations = [m for name, m in modules if is_within(name, parts.projector) and _may_be_activation(m)]
        self.streams: dict[str, MomentsStream] = {}
        self._outputs: dict[int, tuple[Tensor, str]] = {}
        """id of a tensor (kept alive beside it) -> the inner linear that gave it."""
        self._activated: dict[int, tuple[Tensor, str, Tensor]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Gather during the block, which runs the projector on one batch."""
        handles = [linear.register_forward_hook(self._linear_gave) for linear in self.linears]
        handles += [linear.register_forward_pre_hook(self._linear_got) for linear in self.linears]
        handles += [activation.register_forward_hook(self._activation_gave) for activation in self.activations]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._outputs.clear()
            self._activated.clear()

    def _linear_gave(self, linear: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        self._outputs[id(output)] = (output, self.linears[linear])

    def _activation_gave(self, activation: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        given = self._outputs.get(id(args[0])) if args else None
        if given is not None and (slopes := elementwise_slopes(activation, args[0])) is not None:
            self._activated[id(output)] = (output, given[1], slopes)

    def _linear_got(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        activated = self._activated.get(id(args[0])) if args else None
        if activated is not None:
            name, slopes = activated[1:]
            rows_NH = slopes.reshape(-1, slopes.shape[-1])
            if name not in self.streams:
                self.streams[name] = MomentsStream(rows_NH.shape[1], unit_norm=False, source=f"{SLOPES}/{name}")
            self.streams[name].add(rows_NH)


def _may_be_activation(module: nn.Module) -> bool:
    is_from_activations = type(module).__module__.endswith(("activation", "activations"))  # of torch, of Transformers
    return is_from_activations and next(module.parameters(), None) is None


def elementwise_slopes(activation: Callable[[Tensor], Tensor], z: Tensor) -> Tensor | None:
    """phi'(z) of an activation; None where an output depends on more than its own input (softmax, gates, norms)."""
    with torch.enable_grad():
        z = z.detach().clone().requires_grad_(True)
        activated = activation(z)
        if activated.shape != z.shape:
            return None
        alone = activation(z[..., :1].detach())
        if not torch.allclose(alone, activated[..., :1].detach(), atol=1e-5):
            return None
        (slopes,) = torch.autograd.grad(activated.sum(), z)
    return slopes
