"""First and second moments of states, streamed in float64 and mergeable.

Notable:
- a constant 1 is carried beside each state, so that one moment serves a weight alone and a weight with its bias;
- tokens are brought to unit norm first (the constant is scaled along), so that no token counts more than another;
- sinks (first tokens, tokens of massive norm) are kept apart: a few rows that span them, not a share of the energy.

Shape legend: N tokens, D width of a state, E = D + 1 (state and constant), S rows that stand for the sinks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from textanchor.errors import HoldError

MAX_SINK_ROWS = 32
SINK_DEVIATIONS = 3.0


@dataclass(frozen=True)
class Moments:
    """Moments of y = [x; 1] / ||x|| over tokens x (y = [x; 1] without `unit_norm`), sinks apart."""

    count: float
    """Sum of the tokens' weights, sinks not counted."""
    mean_D: Tensor
    """Mean of the state's part of y."""
    second_EE: Tensor
    """E[y y^T], uncentred."""
    sink_count: float
    sinks_SE: Tensor
    """At most 32 rows whose sum of outer products is that of the sinks' y; what they leave out is in `second_EE`."""
    unit_norm: bool

    @property
    def width(self) -> int:
        """Width D of a state."""
        return self.mean_D.shape[0]

    @property
    def second_DD(self) -> Tensor:
        """Uncentred second moment of the states alone."""
        return self.second_EE[:-1, :-1]

    @property
    def covariance_DD(self) -> Tensor:
        """Centred second moment of the states alone."""
        return self.second_DD - torch.outer(self.mean_D, self.mean_D)

    def merged(self, other: "Moments") -> "Moments":
        """Moments of both samples together; HoldError where widths or normalisation differ."""
        if (self.width, self.unit_norm) != (other.width, other.unit_norm):
            raise HoldError(
                f"moments of width {self.width} (unit_norm={self.unit_norm}) cannot be merged with those of width "
                f"{other.width} (unit_norm={other.unit_norm}); gather both from the same module in the same way"
            )
        total = self.count + other.count
        share = other.count / total
        sinks_SE, rest_SE = _split_sinks(torch.cat([self.sinks_SE, other.sinks_SE]))
        return Moments(
            count=total,
            mean_D=torch.lerp(self.mean_D, other.mean_D, share),
            second_EE=torch.lerp(self.second_EE, other.second_EE, share) + rest_SE.T @ rest_SE / total,
            sink_count=self.sink_count + other.sink_count,
            sinks_SE=sinks_SE,
            unit_norm=self.unit_norm,
        )


class MomentsStream:
    """Gathers `Moments` batch by batch; the result does not depend on how the tokens are split into batches.

    `sink_norm`: tokens with a larger norm are sinks (see `sink_bound`). `source` names the states in errors.
    """

    def __init__(
        self, width: int, *, unit_norm: bool = True, sink_norm: float = float("inf"), source: str = "states"
    ) -> None:
        self.width, self.unit_norm, self.sink_norm, self.source = width, unit_norm, sink_norm, source
        self._count, self._sink_count = 0.0, 0.0
        self._sum_D = torch.zeros(width, dtype=torch.float64)
        self._outer_EE = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        self._sinks_SE = torch.zeros(0, width + 1, dtype=torch.float64)

    def add(self, states_ND: Tensor, weights_N: Tensor | None = None, is_sink_N: Tensor | None = None) -> None:
        """Count in a batch, each token once or `weights_N` times; `is_sink_N` marks tokens that are sinks by position.

        Tokens that are all zero have no direction and are left out. HoldError where a state is not finite.
        """
        x_ND = states_ND.detach().to("cpu", torch.float64)
        if x_ND.ndim != 2 or x_ND.shape[1] != self.width:
            raise HoldError(f"{self.source}: expected states of shape (tokens, {self.width}), got {tuple(x_ND.shape)}")
        norms_N = torch.linalg.vector_norm(x_ND, dim=1)
        if not torch.isfinite(norms_N).all():
            raise HoldError(
                f"{self.source}: {int((~torch.isfinite(norms_N)).sum())} of {len(norms_N)} states are not finite; "
                "run the model in float32, and check that its weights and inputs are sound"
            )
        counts_N = (norms_N > 0).double() if weights_N is None else (norms_N > 0) * weights_N.to(norms_N)
        is_massive_N = norms_N > self.sink_norm
        is_apart_N = is_massive_N if is_sink_N is None else torch.logical_or(is_massive_N, is_sink_N.to("cpu"))
        y_NE = torch.cat([x_ND, torch.ones(len(x_ND), 1, dtype=torch.float64)], dim=1)
        if self.unit_norm:
            y_NE = y_NE / norms_N.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        self._add_rest(y_NE, counts_N * torch.logical_not(is_apart_N))
        self._add_sinks(y_NE, counts_N * is_apart_N)

    def _add_rest(self, y_NE: Tensor, counts_N: Tensor) -> None:
        y_NE, counts_N = y_NE[counts_N > 0], counts_N[counts_N > 0]
        self._count += float(counts_N.sum())
        self._sum_D += counts_N @ y_NE[:, :-1]
        scaled_NE = y_NE * counts_N.sqrt()[:, None]
        self._outer_EE.addmm_(scaled_NE.T, scaled_NE)

    def _add_sinks(self, y_NE: Tensor, counts_N: Tensor) -> None:
        rows_NE = (y_NE * counts_N.sqrt()[:, None])[counts_N > 0]
        if not len(rows_NE):
            return
        self._sink_count += float(counts_N.sum())
        self._sinks_SE, rest_SE = _split_sinks(torch.cat([self._sinks_SE, rows_NE]))
        self._outer_EE.addmm_(rest_SE.T, rest_SE)

    def moments(self) -> Moments:
        """Moments of all tokens so far; HoldError where there were none."""
        if not self._count:
            raise HoldError(f"{self.source}: no token counts ({self._sink_count:g} sinks); give more texts or images")
        return Moments(
            count=self._count,
            mean_D=self._sum_D / self._count,
            second_EE=self._outer_EE / self._count,
            sink_count=self._sink_count,
            sinks_SE=self._sinks_SE.clone(),
            unit_norm=self.unit_norm,
        )


def sink_bound(norms_N: Tensor) -> float:
    """Norm above which a token counts as a sink: three standard deviations above the mean, and at least twice the mean.

    Twice the mean (our choice) keeps the tail of ordinary norms, of which 3 sd alone would take some, among the rest.
    """
    norms_N = norms_N.double()
    return float(norms_N.mean() + torch.maximum(SINK_DEVIATIONS * norms_N.std(correction=0), norms_N.mean()))


def _split_sinks(rows_NE: Tensor) -> tuple[Tensor, Tensor]:
    """MAX_SINK_ROWS rows with the largest part of the sum of outer products, and rows with the rest of it."""
    if len(rows_NE) > MAX_SINK_ROWS:
        _, sizes_S, directions_SE = torch.linalg.svd(rows_NE, full_matrices=False)
        rows_NE = sizes_S[:, None] * directions_SE
    return rows_NE[:MAX_SINK_ROWS], rows_NE[MAX_SINK_ROWS:]
