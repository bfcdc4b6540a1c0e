"""Moments of several kinds of states at once, batch by batch, and the text batches that they are gathered on.

Shape legend: B texts of a batch, L tokens, N tokens that count, D width of a state.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from textanchor.errors import HoldError
from textanchor.spectral import Moments, MomentsStream, sink_bound

MIN_PILOT_TOKENS = 64  # with fewer, mean and spread of the norms say too little to call a token a sink

Consume = Callable[[str, Tensor, Tensor | None], None]
Run = Callable[[Consume], dict[str, str]]
"""Runs a batch, gives each linear's states to a consumer, and returns linear -> linear whose states it shares."""


class Streams:
    """Moments for each kind of states, or for the first of those that are the same ones.

    The first batch, which should be the longest, also says above which norm a token is a sink.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.by_name: dict[str, MomentsStream] = {}
        self.aliases: dict[str, str] = {}

    def count(self, run: Run) -> None:
        """Count in the states of one batch."""

        def consume(name: str, states_ND: Tensor, is_sink_N: Tensor | None) -> None:
            if name not in self.by_name:
                bound = _bound_of_sinks(states_ND, is_sink_N)
                self.by_name[name] = MomentsStream(states_ND.shape[1], sink_norm=bound, source=f"{self.prefix}{name}")
            self.by_name[name].add(states_ND, is_sink_N=is_sink_N)

        for name, source in run(consume).items():
            if self.aliases.setdefault(name, source) != source:
                raise HoldError(
                    f"{name}: its inputs are those of {self.aliases[name]} in one batch and those of {source} in "
                    "another; fit it alone, with linears=[...]"
                )

    def moments(self) -> dict[str, Moments]:
        """All moments by prefix and name; the streams are used up, so that not all are there twice."""
        return {f"{self.prefix}{name}": self.by_name.pop(name).moments() for name in list(self.by_name)}


def _bound_of_sinks(states_ND: Tensor, is_sink_N: Tensor | None) -> float:
    """Norm of massive tokens, judged by those that are no sinks by position; none where images alone are states."""
    if is_sink_N is None or int((~is_sink_N).sum()) < MIN_PILOT_TOKENS:
        return float("inf")
    return sink_bound(torch.linalg.vector_norm(states_ND[~is_sink_N], dim=1))


def text_batch(
    rows: Sequence[Sequence[int]], begin_id: int | None, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (B, L) padded to the right, which of them are real (B, L), and which of the real ones are sinks (N)."""
    longest = max(len(row) for row in rows)
    ids_BL = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    real_BL = torch.tensor([[i < len(row) for i in range(longest)] for row in rows], device=device)
    return ids_BL, real_BL, sinks(ids_BL, real_BL, begin_id)


def sinks(ids_BL: Tensor, real_BL: Tensor, begin_id: int | None) -> Tensor:
    """(N,) which of the real tokens are sinks by position: each row's first, and begin-of-sequence tokens."""
    sink_BL = real_BL & (real_BL.cumsum(dim=1) == 1)
    if begin_id is not None:
        sink_BL |= ids_BL == begin_id
    return sink_BL[real_BL]


def begin_id_of(processor: Any) -> int | None:
    """Id of the begin-of-sequence token, if there is one."""
    return getattr(getattr(processor, "tokenizer", processor), "bos_token_id", None)
