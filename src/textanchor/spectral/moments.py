"""First and second moments of states, streamed and mergeable.

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
from textanchor.spectral.gram import WeightedRows
from textanchor.spectral.precision import precise, working

MAX_SINK_ROWS = 32
SINK_ROWS_AT_ONCE = 128
"""So many rows are gathered before they are reduced to MAX_SINK_ROWS."""
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

    `sink_norm`: tokens with a larger norm are sinks (see `sink_bound`). `source` names the states in errors. States are
    multiplied on their own device, in float64 where the first ones are in it, else in float32 (see `gram.py`).
    """

    def __init__(
        self, width: int, *, unit_norm: bool = True, sink_norm: float = float("inf"), source: str = "states"
    ) -> None:
        self.width, self.unit_norm, self.sink_norm, self.source = width, unit_norm, sink_norm, source
        self._count, self._sink_count = 0.0, 0.0
        self._rows: WeightedRows | None = None
        self._sinks: list[Tensor] = []

    @torch.no_grad()
    def add(self, states_ND: Tensor, weights_N: Tensor | None = None, is_sink_N: Tensor | None = None) -> None:
        """Count in a batch, each token once or `weights_N` times; `is_sink_N` marks tokens that are sinks by position.

        Tokens that are all zero have no direction and are left out. HoldError where a state is not finite.
        """
        if states_ND.ndim != 2 or states_ND.shape[1] != self.width:
            raise HoldError(
                f"{self.source}: expected states of shape (tokens, {self.width}), got {tuple(states_ND.shape)}"
            )
        x_ND = states_ND if precise(states_ND.device) == torch.float64 else states_ND.cpu()
        norms_N = torch.linalg.vector_norm(x_ND, dim=1, dtype=torch.float64)
        if not torch.isfinite(norms_N).all():
            raise HoldError(
                f"{self.source}: {int((~torch.isfinite(norms_N)).sum())} of {len(norms_N)} states are not finite; "
                "run the model in float32, and check that its weights and inputs are sound"
            )
        has_direction_N = norms_N > torch.finfo(working([x_ND])).tiny
        counts_N = has_direction_N * (torch.ones_like(norms_N) if weights_N is None else weights_N.to(norms_N))
        scales_N = 1 / norms_N.where(has_direction_N, 1.0) if self.unit_norm else torch.ones_like(norms_N)
        is_apart_N = norms_N > self.sink_norm
        if is_sink_N is not None:
            is_apart_N |= is_sink_N.to(is_apart_N.device)
        self._add_rest(x_ND, scales_N, counts_N.where(~is_apart_N, 0.0))
        self._add_sinks(x_ND[is_apart_N], scales_N[is_apart_N], counts_N[is_apart_N])

    def _add_rest(self, x_ND: Tensor, scales_N: Tensor, counts_N: Tensor) -> None:
        self._count += float(counts_N.sum())
        if self._rows is None:
            self._rows = WeightedRows(self.width + 1, working([x_ND]), x_ND.device)
        roots_N = counts_N.sqrt()
        self._rows.add(x_ND, roots_N * scales_N, roots_N * scales_N, roots_N)

    def _add_sinks(self, x_SD: Tensor, scales_S: Tensor, counts_S: Tensor) -> None:
        self._sink_count += float(counts_S.sum())
        y_SE = torch.cat([x_SD.double(), torch.ones_like(scales_S)[:, None]], dim=1) * scales_S[:, None]
        rows_SE = (y_SE * counts_S.sqrt()[:, None])[counts_S > 0]
        if len(rows_SE):
            self._sinks.append(rows_SE)
        if sum(map(len, self._sinks)) > SINK_ROWS_AT_ONCE:
            self._reduce_sinks()

    def _reduce_sinks(self) -> None:
        """Leave the rows that are kept of the sinks; the rest of them joins the other rows, without a count."""
        sinks_SE, rest_NE = _split_sinks(torch.cat(self._sinks))
        self._sinks = [sinks_SE]
        if self._rows is not None and len(rest_NE):
            ones_N = torch.ones_like(rest_NE[:, 0])
            self._rows.add(rest_NE[:, :-1], ones_N, rest_NE[:, -1], torch.zeros_like(ones_N))

    def moments(self) -> Moments:
        """Moments of all tokens so far; HoldError where there were none."""
        if not self._count or self._rows is None:
            raise HoldError(f"{self.source}: no token counts ({self._sink_count:g} sinks); give more texts or images")
        if self._sinks:
            self._reduce_sinks()
        mean_E, second_EE = self._rows.moments(self._count)
        sinks_SE = torch.cat(self._sinks) if self._sinks else second_EE.new_zeros(0, self.width + 1)
        return Moments(
            count=self._count,
            mean_D=mean_E[:-1].cpu(),
            second_EE=second_EE.cpu(),
            sink_count=self._sink_count,
            sinks_SE=sinks_SE.cpu(),
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
        # rows turned into each other keep their sum, whatever the eigenvectors are worth
        _, turns_NN = torch.linalg.eigh(rows_NE @ rows_NE.T)
        rows_NE = turns_NN.flip(1).T @ rows_NE
    return rows_NE[:MAX_SINK_ROWS], rows_NE[MAX_SINK_ROWS:]
