"""From the directions of some states to the filter on those that a `FilterConfig` chooses, or on its control."""

import torch
from torch import Tensor

from textanchor.holds.filter import FilterConfig
from textanchor.holds.sources import BOTTOM, IDENTITY, RANDOM, RANDOM_ENERGY
from textanchor.spectral import (
    Basis,
    Subspace,
    bottom_basis,
    direction_gains,
    num_selected,
    num_with_energy,
    random_basis,
)


def leading(config: FilterConfig, basis: Basis, *, complement: bool = False, compact: bool = True) -> Subspace:
    """The filter P on the leading directions of `basis`, or with `complement` on all but those."""
    return Subspace.of(basis, _gains(config, basis), complement=complement, compact=compact)


def chosen(
    config: FilterConfig,
    basis: Basis,
    name: str,
    *,
    step_DD: Tensor | None = None,
    complement: bool = False,
    compact: bool = True,
) -> Subspace:
    """`leading`, or in its place the control that `config.basis` names, of the same extent.

    - random: as many random directions, with the same gains;
    - random_energy: as many random directions as take the same share of a gradient step, whose second moment on this
      side is `step_DD`;
    - bottom: as many of the directions of least energy as carry together the same energy;
    - identity: all directions.

    `name` of the states keeps random directions of different ones apart.
    """
    if config.basis == IDENTITY:
        return Subspace.everything(basis.directions_DK)
    if config.basis not in (RANDOM, RANDOM_ENERGY, BOTTOM):
        return leading(config, basis, complement=complement, compact=compact)
    gains_K = _gains(config, basis)
    if config.basis == BOTTOM:
        energy = float((gains_K * basis.energies_K).sum())
        control = bottom_basis(basis)
        gains_K = _first(num_with_energy(control.energies_K, energy), gains_K)
    else:
        control = random_basis(basis, f"{config.basis_seed}/{name}")
        if config.basis == RANDOM_ENERGY:
            assert step_DD is not None
            lost = float((gains_K * basis.energies_in(step_DD)).sum())
            gains_K = _first(num_with_energy(control.energies_in(step_DD), lost), gains_K)
    return Subspace.of(control, gains_K, complement=complement, compact=compact)


def _gains(config: FilterConfig, basis: Basis) -> Tensor:
    """Gains of all directions of a basis; its sinks have 1, also where there is nothing else: all is held then."""
    energies_K = basis.energies_K[basis.num_sinks :]
    if not len(energies_K):
        return torch.ones_like(basis.energies_K)
    count = num_selected(
        energies_K, num_kept=config.num_kept, kept_fraction=config.kept_fraction, kept_energy=config.kept_energy
    )
    gains_K = direction_gains(energies_K, count, config.gains, config.gain_parameter)
    return torch.cat([gains_K.new_ones(basis.num_sinks), gains_K])


def _first(count: int, like_K: Tensor) -> Tensor:
    return (torch.arange(len(like_K), device=like_K.device) < count).to(like_K)
