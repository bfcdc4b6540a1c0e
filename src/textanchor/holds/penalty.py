"""hold="penalty": what the projector gives may cost its distance from what it gave, in the protected directions.

Shape legend: B batch, L tokens, N visual tokens of a step, D width of text space.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.errors import HoldError
from textanchor.holds.entries import HeldProjector
from textanchor.spectral import Subspace


class ProjectorPenalty:
    """strength x E||g^1/2 U^T (f(v) - f*(v))||^2 / E||f0(v) - mean||^2 on the visual tokens since it was last called.

    f0 is a frozen copy of the projector with its weights before training; f* is f0, or under target remove f0 without
    its protected part. It watches every forward pass with gradients; call it once for each one whose loss is to hold
    the term. Without visual tokens (a batch of text) it is 0.
    """

    def __init__(self, held: HeldProjector, module: nn.Module, base: Mapping[str, Tensor]) -> None:
        parameter = next(module.parameters())
        self.frozen = copy.deepcopy(module).requires_grad_(False).eval()
        self.frozen.load_state_dict(dict(base))
        self.subspace = held.subspace.to(parameter.device, torch.float32)
        assert held.config.strength is not None
        self.strength, self.removes = held.config.strength, held.config.target == "remove"
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._handle = module.register_forward_hook(self._gather, with_kwargs=True)

    def _gather(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        with torch.no_grad():
            start = self.frozen(*args, **kwargs)
        if not isinstance(output, Tensor) or not isinstance(start, Tensor):
            raise HoldError(f"hold='penalty' needs a projector that gives one tensor, found {type(output).__name__}")
        width = output.shape[-1]
        self._pairs.append((output.reshape(-1, width).float(), start.reshape(-1, width).float()))

    def __call__(self) -> Tensor:
        """The term, a scalar with gradient; HoldError where the frozen projector gives the same token throughout."""
        if not self._pairs:
            return self.subspace.gains_K.new_zeros(())
        now_ND, start_ND = (torch.cat(tokens) for tokens in zip(*self._pairs, strict=True))
        self._pairs.clear()
        spread = (start_ND - start_ND.mean(0)).square().sum(1).mean()
        if not spread > 0:
            raise HoldError(
                "hold='penalty' is relative to the spread of a batch's visual tokens, but these are all the same"
            )
        change_ND = now_ND - start_ND
        if self.removes:
            change_ND = change_ND + self.subspace.protected(start_ND)
        return self.strength * protected_energy(change_ND, self.subspace) / spread

    def remove(self) -> None:
        """Stop watching the projector."""
        self._handle.remove()
        self._pairs.clear()


def protected_energy(change_ND: Tensor, subspace: Subspace) -> Tensor:
    """E||g^1/2 U^T change||^2 over the rows; of a complement with 1 - g, and 1 outside."""
    kept = ((change_ND @ subspace.directions_DK.to(change_ND)).square() * subspace.gains_K.to(change_ND)).sum(1)
    return (change_ND.square().sum(1) - kept).mean() if subspace.complement else kept.mean()
