"""States of a model by place: streamed into moments, and a bounded, seeded sample of them kept with their groups.

Places are the tower's outputs, the projected tokens, and the positions of images and of text at every depth of the
language model: depth 0 is what enters its first layer, depth i what enters layer i, the last what leaves the last one.
A group is an image or a document; nothing is ever resampled below it.

Shape legend: N tokens, D width, M tokens kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from textanchor.errors import DataError
from textanchor.geometry.moments import StateMoments
from textanchor.spectral import MomentsStream, sink_bound

MAX_SAMPLE = 4096
"""Tokens kept for each sampled place: 9 MB at width 576."""
PILOT_GROUPS = 8
"""Groups from whose norms the bound for sinks is taken."""
PILOT_TOKENS = 64


@dataclass(frozen=True)
class Sample:
    """Tokens of one place with the image or document that each belongs to."""

    states_MD: Tensor
    group_M: Tensor
    label_M: Tensor
    """Token ids of text, the place within the image of visual tokens."""


@dataclass(frozen=True)
class PlaceStates:
    """What is kept of one place."""

    moments: StateMoments
    """Of all its tokens, sinks left out."""
    num_sinks: int
    """Tokens left out because of their massive norm (`spectral.sink_bound`)."""
    sample: Sample | None
    """At most `MAX_SAMPLE` tokens, the same number of every group; None at depths that are only streamed."""


class PlaceStream:
    """Gathers one place, group by group: `add` once for each image or document."""

    def __init__(self, name: str, *, keep: int, seed: int):
        """`keep`: tokens kept of each group, 0 to keep none."""
        self.name, self.keep, self.seed = name, keep, seed
        self.num_sinks = 0
        self._pilot: list[tuple[int, Tensor, Tensor]] | None = []
        self._kept: list[tuple[int, Tensor, Tensor]] = []
        self._bound = float("inf")
        self._moments: MomentsStream | None = None
        self._sum_unit_D, self._sum_norm, self._num_tokens = torch.zeros(0), 0.0, 0

    def add(self, group: int, states_ND: Tensor, label_N: Tensor | None = None) -> None:
        """Count in all tokens of one group; `label_N` says what each token is, by default its number in the group."""
        states_ND = states_ND.detach().to("cpu", torch.float32, copy=True)
        label_N = torch.arange(len(states_ND)) if label_N is None else label_N
        if self._pilot is None:
            self._count(group, states_ND, label_N)
            return
        self._pilot.append((group, states_ND, label_N))
        if len(self._pilot) == PILOT_GROUPS:
            self._end_pilot()

    def states(self) -> PlaceStates:
        """Everything so far; DataError where no token counts."""
        self._end_pilot()
        if self._moments is None:
            raise DataError(f"{self.name}: no token reached this place; give images and texts with tokens")
        means = self._sum_unit_D / self._num_tokens, self._sum_norm / self._num_tokens
        moments = StateMoments(self._moments.moments(), *means)
        sample = None
        if self._kept:
            states_MD = torch.cat([states_MD for _, states_MD, _ in self._kept])
            label_M = torch.cat([label_M for _, _, label_M in self._kept])
            group_M = torch.cat([torch.full((len(states_MD),), group) for group, states_MD, _ in self._kept])
            sample = Sample(states_MD, group_M, label_M)
        return PlaceStates(moments, self.num_sinks, sample)

    def _end_pilot(self) -> None:
        pilot, self._pilot = self._pilot or [], None
        if sum(len(states_ND) for _, states_ND, _ in pilot) >= PILOT_TOKENS:
            self._bound = sink_bound(torch.cat([states_ND.norm(dim=1) for _, states_ND, _ in pilot]))
        for group, states_ND, label_N in pilot:
            self._count(group, states_ND, label_N)

    def _count(self, group: int, states_ND: Tensor, label_N: Tensor) -> None:
        norms_N = torch.linalg.vector_norm(states_ND, dim=1)
        if not torch.isfinite(norms_N).all():
            raise DataError(
                f"{self.name}: {int((~torch.isfinite(norms_N)).sum())} of {len(norms_N)} states are not finite; run "
                "the model in float32, and check that its weights and inputs are sound"
            )
        ordinary_N = (norms_N > 0) & (norms_N <= self._bound)
        self.num_sinks += int((norms_N > self._bound).sum())
        states_ND, label_N, norms_N = states_ND[ordinary_N], label_N[ordinary_N], norms_N[ordinary_N].double()
        if not len(states_ND):
            return
        if self._moments is None:
            self._moments = MomentsStream(states_ND.shape[1], unit_norm=False, source=self.name)
            self._sum_unit_D = torch.zeros(states_ND.shape[1], dtype=torch.float64)
        self._moments.add(states_ND)
        self._sum_unit_D += (states_ND / norms_N[:, None]).sum(dim=0)
        self._sum_norm += float(norms_N.sum())
        self._num_tokens += len(states_ND)
        if self.keep:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + group)
            chosen = torch.randperm(len(states_ND), generator=generator)[: self.keep].sort().values
            self._kept.append((group, states_ND[chosen], label_N[chosen]))


class Streams:
    """A stream for each place of one pass, some of them with a sample."""

    def __init__(self, num_groups: int, *, sampled: frozenset[str], seed: int):
        self.keep = max(1, MAX_SAMPLE // num_groups)
        self.sampled, self.seed = sampled, seed
        self.by_place: dict[str, PlaceStream] = {}

    def add(self, place: str, group: int, states_ND: Tensor, label_N: Tensor | None = None) -> None:
        """Count in the tokens of one group at one place; `label_N` as for `PlaceStream.add`."""
        if place not in self.by_place:
            keep = self.keep if place in self.sampled else 0
            self.by_place[place] = PlaceStream(place, keep=keep, seed=self.seed)
        self.by_place[place].add(group, states_ND, label_N)

    def states(self) -> Mapping[str, PlaceStates]:
        """What every place has, each stream given up as its states come."""
        return {place: self.by_place.pop(place).states() for place in list(self.by_place)}


def five_depths(num_layers: int) -> tuple[int, ...]:
    """At most five depths, evenly spaced from what enters the first layer to what leaves the last."""
    return tuple(sorted({round(i * num_layers / 4) for i in range(5)}))


def place_of(modality: str, depth: int) -> str:
    """Name of the positions of a modality ("text" or "visual") at a depth."""
    return f"{modality} {depth}"


def batches_of_like_length(rows: list[list[int]], size: int) -> Iterator[list[int]]:
    """Indices of rows in batches, short rows together, so that there is little padding."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    yield from (order[i : i + size] for i in range(0, len(order), size))
