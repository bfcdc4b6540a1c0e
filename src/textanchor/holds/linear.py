"""One held linear: its rule as plain data, and that rule bound to the parameters of a model.

Notable:
- every rule works on a matrix X with rows in the filtered space: [W | b] for inputs, its transpose for outputs;
- a LoRA update is Delta = s C^T X with X = A, C = B^T for inputs and X = B^T, C = A for outputs, and X starts at 0 in
  effect, so it needs no reference;
- sums are in float64 and in blocks of rows, so that no second matrix of the weight's size is made at each step.

Shape legend: R rows of X, D width of the filtered space, K directions of the filter, r rank of a LoRA update.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from textanchor.errors import HoldError
from textanchor.holds.filter import FilterConfig
from textanchor.holds.rules import Reference, change_coordinates, damped, decay_factor, share_factor
from textanchor.holds.targets import Target, base_hash, norms
from textanchor.spectral import Subspace

BLOCK_ELEMENTS = 2**20

Side = Literal["in", "out"]
Block = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldLinear:
    """Which tensors of one linear are held, in which directions, by which rule and against which reference."""

    name: str
    """Base name of the linear."""
    tensors: tuple[str, ...]
    """(weight) or (weight, bias); of a LoRA update (lora_A, lora_B)."""
    is_lora: bool
    scaling: float
    """Factor of the LoRA update; 1 for a weight."""
    side: Side
    subspace: Subspace
    config: FilterConfig
    reference: Reference | None
    """What the rule needs of X0; None for a LoRA update, which starts at 0."""
    is_text_writer: bool
    """Whether the filter is on text space itself, which this linear writes to."""
    base: Tensor | None
    """All of X0 for the audit, where it is small and not the reference already."""
    base_hash: str
    """Hash of the weight (and trained bias) before training."""
    base_norm: float | None
    """Frobenius norm of the weight (and trained bias) before training; None where it is quantised."""
    base_rms: float | None
    """Root mean square of the entries of the weight before training."""

    def factor_of_decay(self, lr: float) -> float:
        """The c of `decay` for a step of size lr."""
        assert self.config.strength is not None and self.base_rms is not None
        return decay_factor(lr, self.config.strength / self.base_rms)


def held_linear(
    target: Target,
    side: Side,
    subspace: Subspace,
    config: FilterConfig,
    parameters: Mapping[str, Tensor],
    *,
    is_text_writer: bool,
    keep_base: bool,
) -> HeldLinear:
    """Hold a linear as it is now; `keep_base` keeps its weights for the audit. HoldError where decay is undefined."""
    base_norm, base_rms = norms(target, parameters)
    if config.hold == "decay" and not base_rms:
        what = "is quantised" if base_rms is None else "is zero"
        raise HoldError(f"{target.name}: decay is relative to the weight, which {what}; use hold='exact' or 'share'")
    tensors = tuple(parameters[name].detach() for name in target.tensors)
    reference = base = None
    if not target.is_lora:
        x_RD = matrix(tensors, side)
        reference = Reference.of(x_RD, subspace, needs_all=config.hold == "share")
        base = x_RD if keep_base and not reference.is_full else None
    return HeldLinear(
        name=target.name,
        tensors=target.tensors,
        is_lora=target.is_lora,
        scaling=target.scaling,
        side=side,
        subspace=subspace,
        config=config,
        reference=reference,
        is_text_writer=is_text_writer,
        base=base,
        base_hash=base_hash(target, parameters),
        base_norm=base_norm,
        base_rms=base_rms,
    )


def matrix_blocks(tensors: tuple[Tensor, ...], side: Side, is_lora: bool) -> Iterator[Block]:
    """Views on the rows of X; the tensors of a block stand beside each other."""
    first, second = tensors[0], tensors[1] if len(tensors) > 1 else None
    if is_lora:
        assert second is not None
        yield (first,) if side == "in" else (second.T,)
        return
    rows_RD = first if side == "in" else first.T
    num_rows = max(1, BLOCK_ELEMENTS // rows_RD.shape[1])
    for start in range(0, len(rows_RD), num_rows):
        piece = slice(start, start + num_rows)
        with_bias = side == "in" and second is not None
        yield (rows_RD[piece], second[piece, None]) if with_bias and second is not None else (rows_RD[piece],)
    if side == "out" and second is not None:
        yield (second[None],)


def matrix(tensors: tuple[Tensor, ...], side: Side) -> Tensor:
    """A copy of X of a weight and its bias."""
    return torch.cat([torch.cat(block, dim=1) for block in matrix_blocks(tensors, side, is_lora=False)])


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
        reference = linear.reference
        if reference is not None:
            reference = Reference(reference.values.to(device), reference.is_full)
        return cls(linear, tensors, subspace, reference)

    def with_reference(self, values: Tensor, *, is_full: bool) -> "BoundLinear":
        """The same rule against other reference values."""
        return replace(self, reference=Reference(values.to(self.tensors[0].device), is_full))

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
