"""What storing numbers in a type makes of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

COMPUTED = 10 * torch.finfo(torch.float32).eps
"""Relative size of the errors that sums in float32 may themselves make."""


@dataclass(frozen=True)
class Rounding:
    """The roundings behind a base and a tuned tensor, each stored in its type."""

    base_dtype: torch.dtype
    tuned_dtype: torch.dtype

    @property
    def unit(self) -> float:
        """Largest relative error of rounding to the tuned type."""
        return _unit(self.tuned_dtype)

    @property
    def between(self) -> float:
        """Largest relative difference that another type makes of an equal number; 0 for the same type."""
        return 0.0 if self.base_dtype == self.tuned_dtype else self.unit + _unit(self.base_dtype)

    @property
    def spacing(self) -> float:
        """The spacing of subnormal numbers, where a relative error says nothing."""
        kinds = [torch.finfo(dtype) for dtype in (self.base_dtype, self.tuned_dtype)]
        return max(kind.smallest_normal * kind.eps for kind in kinds)

    def explains(self, base: Tensor, tuned: Tensor, steps: Tensor | None) -> bool:
        """Whether types, and `steps` of quantisation, alone make the difference between two blocks, entry by entry."""
        if self.between == 0 and steps is None:
            return False
        allowed = self.between * torch.maximum(base.abs(), tuned.abs()) + self.spacing
        return bool(((tuned - base).abs() <= (allowed if steps is None else allowed + steps)).all())


def _unit(dtype: torch.dtype) -> float:
    """Largest relative error of rounding to that type; float64 is taken as exact."""
    return torch.finfo(dtype).eps / 2 if dtype.is_floating_point and dtype != torch.float64 else 0.0
