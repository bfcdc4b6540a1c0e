"""The filters of one hold, from an anchor's moments: the directions that a `FilterConfig` chooses, or their control.

Linears that receive the same states share one filter.
"""

import torch
from torch import Tensor

from textanchor.errors import HoldError
from textanchor.holds.anchor import INPUTS, Anchor
from textanchor.holds.filter import FilterConfig
from textanchor.holds.rules import num_free
from textanchor.holds.sources import (
    BOTTOM,
    CONTROLS,
    IDENTITY,
    RANDOM,
    RANDOM_ENERGY,
    REFERENCE_SENSITIVITY,
    SENSITIVITIES,
    TEXT_EMBEDDING,
    TEXT_SENSITIVITY,
    is_gathered,
    way_out,
)
from textanchor.holds.targets import Target
from textanchor.spectral import (
    Basis,
    Moments,
    Subspace,
    bottom_basis,
    direction_gains,
    input_basis,
    metric_basis,
    num_selected,
    num_with_energy,
    output_basis,
    random_basis,
)
from textanchor.spectral.basis import MAX_SINKS


class Filters:
    """Makes each filter once, in the precision that rules on the weights compute in."""

    def __init__(self, anchor: Anchor, config: FilterConfig, dtype: torch.dtype) -> None:
        self.anchor, self.config, self.dtype = anchor, config, dtype
        self._made: dict[tuple[str, bool], Subspace] = {}
        # products of two filters need the protected directions themselves
        self._is_compact = config.mode != "coupling"

    def inputs(self, target: Target, name: str | None = None) -> Subspace:
        """Filter on what enters a linear: of the state with its constant where the bias trains along, else without."""
        if self.config.basis == IDENTITY:
            return self._everything(target.num_inputs + target.has_bias)
        name = f"{INPUTS}/{target.name}" if name is None else name
        moments = self._moments(name, target, target.num_inputs)
        key = self.anchor.source_of(name), target.has_bias
        if key not in self._made:
            basis = input_basis(moments, with_constant=key[1])
            step_DD = moments.second_EE if key[1] else moments.second_DD
            subspace = chosen(self.config, basis, key[0], step_DD=step_DD, compact=self._is_compact)
            self._made[key] = self.checked(target.name, subspace)
        return self._made[key]

    def are_all_sinks(self, target: Target) -> bool:
        """Whether a linear is no wider than the sinks of its inputs, so that holding those holds all of it."""
        if self.config.basis == IDENTITY or target.num_inputs + target.has_bias > MAX_SINKS:
            return False
        moments = self._moments(f"{INPUTS}/{target.name}", target, target.num_inputs)
        basis = input_basis(moments, with_constant=target.has_bias)
        return basis.num_sinks == len(basis.energies_K)

    def outputs(self, target: Target, name: str | None = None) -> Subspace:
        """Filter on what a linear writes into text space."""
        if self.config.basis != IDENTITY:
            self._moments(self._source(name), target, target.num_outputs)
        return self.text_space(target.num_outputs, name)

    def text_space(self, width: int, name: str | None = None) -> Subspace:
        """Filter on text space; HoldError where the anchor's states have another width."""
        if self.config.basis == IDENTITY:
            return self._everything(width)
        name = self._source(name)
        moments = self._of_outputs(name)
        if moments.width != width:
            raise HoldError(
                f"the anchor's {name} is {moments.width} wide and the outputs are {width} wide; fit it on this model"
            )
        if (name, False) not in self._made:
            is_gradient = name in SENSITIVITIES
            basis = metric_basis(moments.second_DD) if is_gradient else output_basis(moments)
            subspace = chosen(
                self.config,
                basis,
                name,
                step_DD=self._step() if self.config.basis == RANDOM_ENERGY else None,
                complement=self.config.mode == "manifold",
                compact=self._is_compact,
            )
            self._made[name, False] = self.checked(name, subspace)
        return self._made[name, False]

    def _source(self, name: str | None) -> str:
        basis = str(self.config.basis)
        is_own = name is None and basis not in CONTROLS and self.config.mode != "inputs"
        return basis if is_own else name or TEXT_EMBEDDING

    def _of_outputs(self, name: str) -> Moments:
        if is_gathered(name) and name not in self.anchor:
            raise HoldError(f"basis={name!r} is not in this anchor; gather it with {way_out(name)}")
        return self.anchor[name]

    def _step(self) -> Tensor:
        """Second moment of what reaches the outputs of a gradient step."""
        found = next((name for name in (REFERENCE_SENSITIVITY, TEXT_SENSITIVITY) if name in self.anchor), None)
        if found is None:
            raise HoldError(
                "basis='random_energy' compares what a gradient step loses, so it needs gradients in the anchor; "
                f"gather them with {way_out(TEXT_SENSITIVITY)}, or set basis='random'"
            )
        return self.anchor[found].second_DD

    def _moments(self, name: str, target: Target, width: int) -> Moments:
        moments = self._of_outputs(name)
        if moments.width != width:
            raise HoldError(
                f"{target.name}: its weight is {(target.num_outputs, target.num_inputs)}, but the anchor's {name} is "
                f"{moments.width} wide; fit the anchor on this model, and give inputs for side 'in', outputs for 'out'"
            )
        return moments

    def checked(self, name: str, subspace: Subspace) -> Subspace:
        """The filter for use; HoldError where `share` would have nothing to compare its protected part with."""
        if self.config.hold == "share" and self.config.mode != "coupling" and not num_free(subspace):
            raise HoldError(
                f"{name}: hold='share' compares the protected part with the rest, but {self.config.amount} with gains "
                f"{self.config.gains!r} leaves no direction free; hold fewer directions, or use decay"
            )
        return subspace.to(subspace.directions_DK.device, self.dtype)

    def _everything(self, width: int) -> Subspace:
        return Subspace.everything(torch.zeros(width, 0, dtype=self.dtype))


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
