"""A held linear bound to the parameters of a model: its rule applied in place, and what has moved.

It works in place and in blocks of rows, so that no second matrix of the weight's size is made at each step (`share`
keeps the coordinates of one linear until it has seen all blocks), and in the precision of the filter; what has moved is
summed in float64. Sharded parameters are gathered first; see `tensors.py`. Mode coupling filters both ends of a linear.

Shape legend: R rows of X (see `linear.py`), D width of the filtered space, K, J directions in, out, r rank of LoRA.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from textanchor.holds import rules
from textanchor.holds.linear import Block, HeldLinear, laid_out, matrix, matrix_blocks, start_matrix, write_block
from textanchor.holds.norm_sketch import random_signs
from textanchor.holds.tensors import gathered, local, write_back
from textanchor.spectral import Subspace
from textanchor.spectral.precision import precise, unrounded, working
from textanchor.spectral.products import linear
from textanchor.vlm.hashing import bit_hashes

FilterCache = dict[tuple[int, torch.device, torch.dtype], Subspace]


@dataclass(frozen=True, eq=False)
class BoundLinear(ABC):
    """A held linear with the parameters that it holds now, and its filter and reference beside them."""

    linear: HeldLinear
    tensors: tuple[Tensor, ...]
    subspace: Subspace
    across: Subspace | None
    reference: rules.Reference | None

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The whole values of the held tensors, without gradient; anew each time, as `.data` may be replaced."""
        return tuple(gathered(tensor.detach()) for tensor in self.tensors)

    @property
    def has_gradient(self) -> bool:
        """Whether an optimizer has anything to move the held tensors by."""
        return any(tensor.grad is not None for tensor in self.tensors)

    def bit_hashes(self) -> list[list[int]]:
        """Of each held tensor as this process has it."""
        return [bit_hashes(local(tensor.detach())) for tensor in self.tensors]

    def with_reference(self, values: Tensor, *, is_full: bool) -> Self:
        """The same rule against these reference values: all of X0, or its coordinates."""
        values = laid_out(values, self.linear.side) if is_full else values
        return replace(self, reference=rules.Reference(values.to(self.tensors[0].device), is_full))

    def at_start(self) -> Self:
        """The same rule, counting changes from the weights as they are now; all of them are kept."""
        return self.with_reference(matrix(self.parameters, self.linear.side), is_full=True)

    def rebound(self, named: Mapping[str, Tensor]) -> Self:
        """The same rule and reference on other tensors of the same names."""
        return replace(self, tensors=tuple(named[name] for name in self.linear.tensors))

    def with_start(self, named: Mapping[str, Tensor]) -> Self:
        """The same with all of the start, for the audit, from its tensors by name."""
        held = self.linear
        if held.is_lora or self.whole_base() is not None:
            return self
        tensors = tuple(named[name].to(self.tensors[0].device) for name in held.tensors)
        base = start_matrix(tensors, held.side, held.subspace, held.across, held.config)
        return replace(self, linear=replace(held, base=base))

    def gathered(self) -> Self:
        """The same on whole tensors, gathered once; on plain tensors the values themselves."""
        return replace(self, tensors=self.parameters)

    def rows(self, base: Tensor | None, dtype: torch.dtype) -> Iterator[tuple[Block, Tensor, Tensor | None]]:
        """Blocks of X: the views, their values (a copy or the view itself), and their rows of `base`, which has all."""
        start = 0
        for block in matrix_blocks(self.parameters, self.linear.side, self.linear.is_lora):
            pieces = [piece.to(dtype) for piece in block]
            x_RD = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
            yield block, x_RD, None if base is None else base[start : start + len(x_RD)]
            start += len(x_RD)

    @property
    def is_full(self) -> bool:
        """Whether the reference holds all of X0."""
        return self.reference is not None and self.reference.is_full

    @property
    def _start(self) -> Tensor | None:
        return None if self.reference is None else self.reference.values

    def apply(self, lr: float | None) -> None:
        """The rule of this linear, once, after a step of size lr, which only decay asks for; inside `unrounded`."""
        config, whole = self.linear.config, self.gathered()
        if config.hold == "share":
            whole._share()
        else:
            whole._damp(0.0 if config.hold == "exact" else self.linear.factor_of_decay(lr))
        if config.norm_cap is not None:
            whole._cap_norm(config.norm_cap)
        self._write(whole)

    def damp(self, factor: float) -> None:
        """Damp the change in place, direction i by factor ** p_i."""
        whole = self.gathered()
        with unrounded(self.tensors):
            whole._damp(factor)
        self._write(whole)

    @property
    def _working(self) -> torch.dtype:
        return self.subspace.directions_DK.dtype

    @property
    def _precise(self) -> torch.dtype:
        return precise(self.tensors[0].device)

    def _write(self, whole: "BoundLinear") -> None:
        for values, tensor in zip(whole.tensors, self.tensors, strict=True):
            write_back(values, tensor.detach())

    @abstractmethod
    def _damp(self, factor: float) -> None:
        """Damp the change of tensors that are whole, in place."""

    @abstractmethod
    def _share(self) -> None:
        """Damp the change as far as `share` asks."""

    @abstractmethod
    def protected_norm(self) -> float:
        """||P_out Delta P_in||_F as it is now."""

    def _cap_norm(self, cap: float) -> None:
        """Shrink the whole change to ||Delta|| <= cap ||W0||, so that each direction keeps its share of it."""
        change, base_norm = self.change_norm(), self.linear.base_norm
        assert base_norm is not None
        if change > cap * base_norm:
            factor = cap * base_norm / change
            for block, x_RD, base_RD in self.rows(self.whole_base(), self._precise):
                start_RD = torch.zeros_like(x_RD) if base_RD is None else base_RD.to(x_RD)
                write_block(block, torch.lerp(start_RD, x_RD, factor))

    def _gram_rr(self, dtype: torch.dtype) -> Tensor | None:
        """Gram matrix of the scaled cofactor of LoRA, by which rows of X weigh; None for a weight, where it is 1."""
        if not self.linear.is_lora:
            return None
        cofactor_rR = self._cofactor_rR(dtype)
        return self.linear.scaling**2 * (cofactor_rR @ cofactor_rR.T)

    def _cofactor_rR(self, dtype: torch.dtype) -> Tensor:
        a_rI, b_Or = self.parameters
        return (b_Or.T if self.linear.side == "in" else a_rI).to(dtype)

    def change_norm(self) -> float:
        """||Delta||_F as it is now; estimated where all that is kept of the start is its sketch."""
        if not self.linear.is_lora and self.whole_base() is None:
            return self._sketched_norm()
        energy, gram_rr = 0.0, self._gram_rr(self._precise)
        for _, x_RD, base_RD in self.rows(self.whole_base(), self._precise):
            change_RD = x_RD if base_RD is None else x_RD - base_RD.to(x_RD)
            energy += float(rules.column_energies(change_RD, gram_rr).sum())
        return energy**0.5

    def _sketched_norm(self) -> float:
        assert self.linear.base_sketch is not None
        sketch_RS, energy = self.linear.base_sketch.to(self.tensors[0].device), 0.0
        signs_DS = random_signs(self.linear.subspace.width, sketch_RS)
        for _, x_RD, start_RS in self.rows(sketch_RS, self._precise):
            assert start_RS is not None
            energy += float((x_RD @ signs_DS - start_RS).square().sum())
        return (energy / signs_DS.shape[1]) ** 0.5

    def change(self) -> Tensor | None:
        """Delta with rows in the filtered space, in float64; None where only projections of the start are kept."""
        base = self.whole_base()
        if self.linear.is_lora:
            x_rD = next(x_RD for _, x_RD, _ in self.rows(None, self._precise))
            return self.linear.scaling * self._cofactor_rR(self._precise).T @ x_rD
        if base is None:
            return None
        rows = self.rows(base, self._precise)
        return torch.cat([x_RD - base_RD.to(x_RD) for _, x_RD, base_RD in rows if base_RD is not None])

    def whole_base(self) -> Tensor | None:
        """All of X0 as far as it is kept."""
        if self.reference is not None and self.reference.is_full:
            return self.reference.values
        return None if self.linear.base is None else self.linear.base.to(self.tensors[0].device)


@final
class FilteredLinear(BoundLinear):
    """A weight or a LoRA update held at one end."""

    def _damp(self, factor: float) -> None:
        for block, x_RD, reference_R in self.rows(self._start, self._working):
            rules.damp_(x_RD, reference_R, self.is_full, self.subspace, factor)
            write_block(block, x_RD)

    def _share(self) -> None:
        # one pass over X to measure the change, one to damp it
        assert self.linear.config.share is not None
        energies_K = torch.zeros_like(self.subspace.gains_K, dtype=self._precise)
        energy, changes = torch.zeros((), dtype=self._precise, device=energies_K.device), []
        gram_rr = self._gram_rr(self._working)
        for _, x_RD, base_RD in self.rows(self._start, self._working):
            change_RD = x_RD if base_RD is None else x_RD - base_RD.to(x_RD)
            changes.append(linear(change_RD, self.subspace.directions_DK.T))
            energies_K += rules.column_energies(changes[-1], gram_rr)
            energy += rules.column_energies(change_RD, gram_rr).sum()
        factor = rules.share_factor(energies_K, float(energy), self.subspace, self.linear.config.share)
        if factor < 1.0:
            rows = self.rows(self._start, self._working)
            for (block, x_RD, base_RD), change_RK in zip(rows, changes, strict=True):
                rules.damp_(x_RD, base_RD, self.is_full, self.subspace, factor, change_RK)
                write_block(block, x_RD)

    def protected_norm(self) -> float:
        energy, gram_rr = 0.0, self._gram_rr(self._precise)
        for _, x_RD, reference_R in self.rows(self._start, self._precise):
            if self.subspace.complement:
                change_RD = x_RD if reference_R is None else x_RD - reference_R.to(x_RD)
                part = self.subspace.protected(change_RD)
            else:
                part = rules.change_coordinates(x_RD, reference_R, self.is_full, self.subspace)
                part = part * self.subspace.gains_K.to(part)
            energy += float(rules.column_energies(part, gram_rr).sum())
        return energy**0.5


@final
class CoupledLinear(BoundLinear):
    """A full weight held at both ends: P_out Delta P_in = U diag(g) (U^T Delta V) diag(h) V^T by its coordinates."""

    def _coordinates(self) -> Tensor:
        """(J, K) U^T Delta V."""
        assert self.across is not None
        u_RJ, v_DK = (side.directions_DK.to(self._precise) for side in (self.across, self.subspace))
        sum_JK, start = v_DK.new_zeros(u_RJ.shape[1], v_DK.shape[1]), 0
        for _, x_RD, base_RD in self.rows(self._start if self.is_full else None, self._precise):
            change_RD = x_RD if base_RD is None else x_RD - base_RD.to(x_RD)
            sum_JK += u_RJ[start : start + len(x_RD)].T @ (change_RD @ v_DK)
            start += len(x_RD)
        return sum_JK if self.is_full or self._start is None else sum_JK - self._start

    def _damp(self, factor: float) -> None:
        assert self.across is not None
        less_JK, start = (
            rules.damped_pairs(self._coordinates(), self.across, self.subspace, factor).to(self._working),
            0,
        )
        for block, x_RD, _ in self.rows(None, self._working):
            less_RK = self.across.directions_DK[start : start + len(x_RD)] @ less_JK
            write_block(block, x_RD.addmm_(less_RK, self.subspace.directions_DK.T, alpha=-1))
            start += len(x_RD)

    def _share(self) -> None:
        assert self.across is not None and self.linear.config.share is not None
        energies_JK = self._coordinates().square()
        factor = rules.pair_share_factor(
            energies_JK, self.change_norm() ** 2, self.across, self.subspace, self.linear.config.share
        )
        if factor < 1.0:
            self._damp(factor)

    def protected_norm(self) -> float:
        assert self.across is not None
        gains_JK = torch.outer(self.across.gains_K, self.subspace.gains_K)
        return float((self._coordinates() * gains_JK).norm())


@final
class SplitLora(BoundLinear):
    """A LoRA update whose first half of the rank keeps off the outputs, and whose second half off the inputs.

    A product of two factors cannot give up P_out Delta P_in alone, so the rank is split, B A = B1 A1 + B2 A2, with
    U^T B1 = 0 and A2 V = 0: the first half may read all and not write to U, the second may write all and not read V.
    """

    def _damp(self, factor: float) -> None:
        assert self.across is not None
        a_rD, b_Rr = self.tensors
        half = len(a_rD) // 2
        first, second = slice(0, half), slice(half, None)
        for values, subspace in ((b_Rr.T[first], self.across), (a_rD[second], self.subspace)):
            x_RD = values.to(subspace.directions_DK)
            rules.damp_(x_RD, None, False, subspace, factor)
            write_block((values,), x_RD)

    def _share(self) -> None:
        raise NotImplementedError("a split rank has no rule share; require_legal refuses it")

    def protected_norm(self) -> float:
        assert self.across is not None
        a_rD, b_Rr = (tensor.to(self._precise) for tensor in self.parameters)
        written_rR = self.across.protected(b_Rr.T)
        return float(self.linear.scaling * (written_rR.T @ self.subspace.protected(a_rD)).norm())


def bind(linear: HeldLinear, named: Mapping[str, Tensor], cache: FilterCache | None = None) -> BoundLinear:
    """Bind a held linear to tensors by name; `cache` lets linears with one filter share it on a device."""
    tensors = tuple(named[name] for name in linear.tensors)
    device, dtype, cache = tensors[0].device, working(tensors), {} if cache is None else cache

    def on_device(subspace: Subspace) -> Subspace:
        return cache.setdefault((id(subspace), device, dtype), subspace.to(device, dtype))

    across = None if linear.across is None else on_device(linear.across)
    kind = FilteredLinear if linear.across is None else SplitLora if linear.is_lora else CoupledLinear
    bound = kind(linear, tensors, on_device(linear.subspace), across, None)
    if linear.reference is None:
        return bound
    return bound.with_reference(linear.reference.values, is_full=linear.reference.is_full)
