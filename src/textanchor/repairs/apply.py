"""The arithmetic of a repair, on tensors by name."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from textanchor.holds import HoldPlan
from textanchor.holds.bound import FilterCache, bind
from textanchor.spectral.precision import unrounded


def is_changed(base: Tensor, tuned: Tensor) -> bool:
    """Whether two tensors of one shape have other values; types aside."""
    wide = torch.promote_types(base.dtype, tuned.dtype)
    return not torch.equal(base.to(wide), tuned.to(wide))


@torch.no_grad()
def repaired(
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    alpha_of: Callable[[str], float],
    holds: HoldPlan | None,
) -> dict[str, Tensor]:
    """The changed tensors after the repair in full, each in the type of the tuned one; see `RepairPlan`.

    `base` and `tuned` hold the same names with the same shapes, and all that the plan's linears name.
    """
    new = {name: interpolated(base[name], tuned[name], alpha_of(name)) for name in tuned}
    if holds is not None:
        for name in holds.frozen:
            if name in new:
                new[name] = base[name].to(new[name].dtype, copy=True)
        cache: FilterCache = {}
        with unrounded(new.values()):
            for linear in holds.linears:
                bind(linear, new, cache).apply(lr=0.0)
    return {name: values for name, values in new.items() if is_changed(tuned[name], values)}


def interpolated(base: Tensor, tuned: Tensor, alpha: float) -> Tensor:
    """W0 + alpha (W - W0), in the type of `tuned`; a copy. Equal tensors and alpha 1 give `tuned` bit for bit."""
    if alpha == 1 or not tuned.is_floating_point() or not is_changed(base, tuned):
        return tuned.detach().clone()
    wide = torch.promote_types(torch.promote_types(base.dtype, tuned.dtype), torch.float32)
    return torch.lerp(base.detach().to(wide), tuned.detach().to(wide), alpha).to(tuned.dtype)


def blended(tuned: Tensor, repaired: Tensor, strength: float) -> Tensor:
    """Between the tuned (strength 0) and the repaired tensor (strength 1)."""
    if strength in (0.0, 1.0):
        return (repaired if strength else tuned).detach().clone()
    return interpolated(repaired, tuned, 1 - strength)
