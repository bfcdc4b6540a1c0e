"""Mode coupling: what a linear maps from its protected input directions V to its protected output directions U stays.

- full weights: P_out Delta P_in = U diag(g) (U^T Delta V) diag(h) V^T, held through its coordinates U^T Delta V;
- LoRA: a product of two factors cannot give up that part alone, so the rank is split, B A = B1 A1 + B2 A2, with
  U^T B1 = 0 and A2 V = 0: the first half may read all and not write to U, the second may write all and not read V.

Shape legend: R outputs, D inputs (with the constant where a bias is held), J output and K input directions, r rank.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from textanchor.holds.bound import BoundLinear, write_block
from textanchor.holds.linear import HeldLinear
from textanchor.holds.rules import damp_, damped_pairs, pair_share_factor
from textanchor.spectral import Subspace
from textanchor.spectral.precision import working

FilterCache = dict[tuple[int, torch.device, torch.dtype], Subspace]


def bind(linear: HeldLinear, named: Mapping[str, Tensor], cache: FilterCache | None = None) -> BoundLinear:
    """Bind a held linear to tensors by name; `cache` lets linears with one filter share it on a device."""
    tensors = tuple(named[name] for name in linear.tensors)
    device, dtype, cache = tensors[0].device, working(tensors), {} if cache is None else cache

    def on_device(subspace: Subspace | None) -> Subspace | None:
        if subspace is None:
            return None
        return cache.setdefault((id(subspace), device, dtype), subspace.to(device, dtype))

    subspace = on_device(linear.subspace)
    assert subspace is not None
    kind = BoundLinear if linear.across is None else SplitLora if linear.is_lora else CoupledLinear
    bound = kind(linear, tensors, subspace, on_device(linear.across), None)
    if linear.reference is None:
        return bound
    return bound.with_reference(linear.reference.values, is_full=linear.reference.is_full)


class CoupledLinear(BoundLinear):
    """A full weight held between input and output directions."""

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
        less_JK, start = damped_pairs(self._coordinates(), self.across, self.subspace, factor).to(self._working), 0
        for block, x_RD, _ in self.rows(None, self._working):
            less_RK = self.across.directions_DK[start : start + len(x_RD)] @ less_JK
            write_block(block, x_RD.addmm_(less_RK, self.subspace.directions_DK.T, alpha=-1))
            start += len(x_RD)

    def _share(self) -> None:
        assert self.across is not None and self.linear.config.share is not None
        energies_JK = self._coordinates().square()
        factor = pair_share_factor(
            energies_JK, self.change_norm() ** 2, self.across, self.subspace, self.linear.config.share
        )
        if factor < 1.0:
            self._damp(factor)

    def protected_norm(self) -> float:
        """||P_out Delta P_in||_F as it is now."""
        assert self.across is not None
        gains_JK = torch.outer(self.across.gains_K, self.subspace.gains_K)
        return float((self._coordinates() * gains_JK).norm())


class SplitLora(BoundLinear):
    """A LoRA update whose first half of the rank keeps off the outputs, and whose second half off the inputs."""

    @property
    def _split(self) -> int:
        return len(self.tensors[0]) // 2

    def _damp(self, factor: float) -> None:
        assert self.across is not None
        a_rD, b_Rr = self.tensors
        first, second = slice(0, self._split), slice(self._split, None)
        for values, subspace in ((b_Rr.T[first], self.across), (a_rD[second], self.subspace)):
            x_RD = values.to(subspace.directions_DK)
            damp_(x_RD, None, False, subspace, factor)
            write_block((values,), x_RD)

    def protected_norm(self) -> float:
        """||P_out Delta P_in||_F as it is now."""
        assert self.across is not None
        a_rD, b_Rr = (tensor.to(self._precise) for tensor in self.parameters)
        written_rR = self.across.protected(b_Rr.T)
        return float(self.linear.scaling * (written_rR.T @ self.subspace.protected(a_rD)).norm())
