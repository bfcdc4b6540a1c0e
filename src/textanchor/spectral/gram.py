"""Sums of rows and of their outer products: float32 products of many rows at once, added up in float64.

Notable:
- rows are seen from an origin, the median of the first ones, so that rounding is relative to how much rows vary:
  float32 sums of equal numbers, as around a large mean, are wrong by up to 1e-5; of activations that are mostly 0 the
  median is 0, and zeros add no rounding;
- only blocks on and below the diagonal are multiplied, because the sum is symmetric;
- a sample of fewer rows than one product takes is added up in float64, so that its rank is exact.

Shape legend: N rows given, K rows taken of them, D and E = D + 1 width of a row, F = E + 1 its width with its root.
"""

import torch
from torch import Tensor

from textanchor.spectral.precision import unrounded
from textanchor.spectral.products import linear

ROWS_AT_ONCE = 1024
"""Rows that wait for their products: float64 sums are long to read and write, so it is done once for so many."""
ROWS_OF_A_SUM = 512
"""Sums of so many float32 products are off by about 3e-7 of the sum's norm, and several such sums by less."""
ORIGIN_ROWS = 64
BLOCK = 128
"""Columns of one product. Of 1536 columns, 54 % of all products are formed so."""


class WeightedRows:
    """Mean and second moment of rows y with weights w^2, gathered as rows [w y, w].

    Fewer than `ROWS_AT_ONCE` rows are neither rounded nor multiplied in less than float64.
    """

    def __init__(self, width: int, dtype: torch.dtype, device: torch.device) -> None:
        """For rows y of this width, which are multiplied in this type."""
        with torch.inference_mode(False):  # begun within inference mode, they are written to outside of it as well
            self._products = OuterProducts(width + 1, device)
            self._waiting_NF = torch.empty(ROWS_AT_ONCE, width + 1, dtype=torch.float64, device=device)
        self._origin_E: Tensor | None = None
        self._dtype, self._num_waiting = dtype, 0

    @torch.no_grad()
    def add(self, x_ND: Tensor, scales_N: Tensor, constants_N: Tensor, roots_N: Tensor) -> None:
        """Count in rows w y = [scale x, constant] and w, their root; rows with root 0 count for products alone."""
        if self._origin_E is None and bool(roots_N.any()):
            first_K = roots_N.nonzero()[:ORIGIN_ROWS, 0]
            rows_KE = torch.cat([x_ND[first_K] * scales_N[first_K, None], constants_N[first_K, None]], dim=1)
            self._origin_E = (rows_KE / roots_N[first_K, None]).median(dim=0).values.to(self._dtype)
        start = 0
        while start < len(x_ND):
            taken = slice(start, start + ROWS_AT_ONCE - self._num_waiting)
            self._put(x_ND[taken], scales_N[taken], constants_N[taken], roots_N[taken])
            start = taken.stop

    def _put(self, x_KD: Tensor, scales_K: Tensor, constants_K: Tensor, roots_K: Tensor) -> None:
        rows_KF = self._waiting_NF[self._num_waiting : self._num_waiting + len(x_KD)]
        scales_K, roots_K = scales_K.to(rows_KF), roots_K.to(rows_KF)
        torch.mul(x_KD.to(rows_KF), scales_K[:, None], out=rows_KF[:, :-2])
        rows_KF[:, -2] = constants_K
        rows_KF[:, -1] = roots_K
        if self._origin_E is not None:
            rows_KF[:, :-1].addr_(roots_K, self._origin_E.to(rows_KF), alpha=-1)
        self._num_waiting += len(x_KD)
        if self._num_waiting == ROWS_AT_ONCE:
            with torch.inference_mode(False):
                self._waiting_NF = self._waiting_NF.to(self._dtype)
            self._multiply()

    def _multiply(self) -> None:
        rows_KF = self._waiting_NF[: self._num_waiting]
        self._num_waiting = 0
        if len(rows_KF):
            self._products.add(rows_KF)

    @torch.no_grad()
    def moments(self, weight: float) -> tuple[Tensor, Tensor]:
        """Mean (E,) and second moment (E, E) of the rows so far, whose weights add up to `weight`, in float64."""
        self._multiply()
        second_EE, last_E = self._products.total()
        second_EE /= weight
        seen_E = last_E / weight
        origin_E = torch.zeros_like(seen_E) if self._origin_E is None else self._origin_E.to(seen_E)
        # with z = y - o: E[y y^T] = E[z z^T] + o (E[z] + o/2)^T + (E[z] + o/2) o^T
        half_E = seen_E + origin_E / 2
        second_EE.addmm_(torch.stack([origin_E, half_E], dim=1), torch.stack([half_E, origin_E]))
        return seen_E + origin_E, second_EE


class OuterProducts:
    """The sum of r r^T over rows r, in float64."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._width = width
        self._blocks = [
            (start, torch.zeros(width - start, min(BLOCK, width - start), dtype=torch.float64, device=device))
            for start in range(0, width, BLOCK)
        ]
        """First column -> the block of that column and those beside it, from the diagonal down."""

    def add(self, rows_NF: Tensor) -> None:
        """Count in rows, multiplied in their own precision."""
        with unrounded([rows_NF]):
            pieces = [rows_KF.T.contiguous() for rows_KF in rows_NF.split(ROWS_OF_A_SUM)]
            for start, block in self._blocks:
                products = [linear(piece_FK[start:], piece_FK[start : start + BLOCK]) for piece_FK in pieces]
                block += sum(products[1:], products[0])

    def total(self) -> tuple[Tensor, Tensor]:
        """The sum of all rows so far without the last row and column (E, E), and the last row without its end (E,)."""
        width = self._width - 1
        total_EE = self._blocks[0][1].new_empty(width, width)
        for start, block in self._blocks:
            stop = min(start + BLOCK, width)
            block = block[: width - start, : stop - start]
            total_EE[start:, start:stop] = block
            total_EE[start:stop, start:] = block.T
            corner = block[: stop - start]
            total_EE[start:stop, start:stop] = (corner + corner.T) / 2
        last_F = torch.cat([block[-1] for _, block in self._blocks])
        return total_EE, last_F[:-1]
