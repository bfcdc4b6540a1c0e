"""A held linear bound to the parameters of a model: its rule applied in place, and what has moved.

Sums are in float64 and in blocks of rows, so that no second matrix of the weight's size is made at each step.

Shape legend: R rows of X (see `linear.py`), D width of the filtered space, K directions of the filter, r rank of LoRA.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from textanchor.holds.linear import Block, HeldLinear, matrix, matrix_blocks
from textanchor.holds.rules import Reference, change_coordinates, damped, share_factor
from textanchor.spectral import Subspace


def precise(device: torch.device) -> torch.dtype:
    """Type of the sums: float64, which TF32 and autocast leave alone; float32 where the device has nothing better."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True, eq=False)
class BoundLinear:
    """A held linear with the parameters that it holds now, and its filter and reference beside them."""

    linear: HeldLinear
    tensors: tuple[Tensor, ...]
    subspace: Subspace
    reference: Reference | None

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The values of the held tensors, without gradient; taken anew each time, as `.data` may be replaced."""
        return tuple(tensor.detach() for tensor in self.tensors)

    @classmethod
    def bind(
        cls,
        linear: HeldLinear,
        named: Mapping[str, Tensor],
        cache: dict[tuple[int, torch.device], Subspace] | None = None,
    ) -> "BoundLinear":
        """Bind to tensors by name; `cache` lets linears with one filter share it on a device."""
        tensors = tuple(named[name] for name in linear.tensors)
        device = tensors[0].device
        key, cache = (id(linear.subspace), device), {} if cache is None else cache
        subspace = cache.setdefault(key, linear.subspace.to(device, precise(device)))
        bound = cls(linear, tensors, subspace, None)
        if linear.reference is None:
            return bound
        return bound.with_reference(linear.reference.values, is_full=linear.reference.is_full)

    def with_reference(self, values: Tensor, *, is_full: bool) -> "BoundLinear":
        """The same rule against these reference values: all of X0, or its coordinates."""
        device = self.tensors[0].device
        dtype = values.dtype if is_full else precise(device)
        return replace(self, reference=Reference(values.to(device, dtype), is_full))

    def at_start(self) -> "BoundLinear":
        """The same rule, counting changes from the weights as they are now; all of them are kept."""
        return self.with_reference(matrix(self.parameters, self.linear.side), is_full=True)

    def rebound(self, named: Mapping[str, Tensor]) -> "BoundLinear":
        """The same rule and reference on other tensors of the same names."""
        return replace(self, tensors=tuple(named[name] for name in self.linear.tensors))

    def rows(self, base: Tensor | None = None) -> Iterator[tuple[Block, Tensor, Tensor | None]]:
        """Blocks of X: the views, their values in float64, and their rows of `base` (by default of the reference)."""
        if base is None and self.reference is not None:
            base = self.reference.values
        start, dtype = 0, precise(self.parameters[0].device)
        for block in matrix_blocks(self.parameters, self.linear.side, self.linear.is_lora):
            x_RD = torch.cat([piece.to(dtype) for piece in block], dim=1)
            yield block, x_RD, None if base is None else base[start : start + len(x_RD)]
            start += len(x_RD)

    @property
    def is_full(self) -> bool:
        """Whether the reference holds all of X0."""
        return self.reference is not None and self.reference.is_full

    def damp(self, factor: float) -> None:
        """Damp the change in place, direction i by factor ** p_i."""
        for block, x_RD, reference_R in self.rows():
            new_RD = damped(x_RD, reference_R, self.is_full, self.subspace, factor)
            for piece, values in zip(block, new_RD.split([piece.shape[1] for piece in block], dim=1), strict=True):
                piece.copy_(values)

    def apply(self, lr: float) -> None:
        """The rule of this linear, once, after a step of size lr."""
        hold = self.linear.config.hold
        factor = 0.0 if hold == "exact" else self.linear.factor_of_decay(lr) if hold == "decay" else self.share_factor()
        if factor < 1.0:
            self.damp(factor)

    def share_factor(self) -> float:
        """The c of `share` for the change as it is now."""
        assert self.linear.config.share is not None
        energies_K, total = torch.zeros_like(self.subspace.gains_K), 0.0
        for _, x_RD, reference_R in self.rows():
            coordinates_RK = change_coordinates(x_RD, reference_R, self.is_full, self.subspace)
            change_RD = x_RD if reference_R is None else x_RD - reference_R.to(x_RD)
            energies_K += self._energies(coordinates_RK)
            total += float(self._energies(change_RD).sum())
        return share_factor(energies_K, total, self.subspace, self.linear.config.share)

    def _energies(self, x_RK: Tensor) -> Tensor:
        """Energy of each column of the change, when `x_RK` are columns of the change of X."""
        if not self.linear.is_lora:
            return x_RK.square().sum(0)
        gram_rr = self._cofactor_rR() @ self._cofactor_rR().T
        return self.linear.scaling**2 * (x_RK * (gram_rr @ x_RK)).sum(0)

    def _cofactor_rR(self) -> Tensor:
        a_rI, b_Or = self.parameters
        return (b_Or.T if self.linear.side == "in" else a_rI).to(precise(a_rI.device))

    def protected_norm(self) -> float:
        """||P_out Delta P_in||_F as it is now."""
        energy = 0.0
        for _, x_RD, reference_R in self.rows():
            if self.subspace.complement:
                change_RD = x_RD if reference_R is None else x_RD - reference_R.to(x_RD)
                part = self.subspace.protected(change_RD)
            else:
                part = change_coordinates(x_RD, reference_R, self.is_full, self.subspace) * self.subspace.gains_K
            energy += float(self._energies(part).sum())
        return energy**0.5

    def change_norm(self) -> float | None:
        """||Delta||_F as it is now; None where only projections of the start are kept."""
        base = self.whole_base()
        if base is None and not self.linear.is_lora:
            return None
        energy = 0.0
        for _, x_RD, base_RD in self.rows(base):
            energy += float(self._energies(x_RD if base_RD is None else x_RD - base_RD.to(x_RD)).sum())
        return energy**0.5

    def change(self) -> Tensor | None:
        """Delta with rows in the filtered space, in float64; None where only projections of the start are kept."""
        base = self.whole_base()
        if self.linear.is_lora:
            x_rD = next(x_RD for _, x_RD, _ in self.rows())
            return self.linear.scaling * self._cofactor_rR().T @ x_rD
        if base is None:
            return None
        return torch.cat([x_RD - base_RD.to(x_RD) for _, x_RD, base_RD in self.rows(base) if base_RD is not None])

    def whole_base(self) -> Tensor | None:
        """All of X0 as far as it is kept."""
        if self.reference is not None and self.reference.is_full:
            return self.reference.values
        return None if self.linear.base is None else self.linear.base.to(self.parameters[0].device)
