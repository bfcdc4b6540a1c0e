"""Samples in folds of whole groups: a group (an image, a document) is never split, and a fold is what is left out.

Shape legend: N tokens, G folds.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from itertools import accumulate
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from textanchor.errors import DataError
from textanchor.geometry.inputs import as_pair, as_states
from textanchor.geometry.moments import PairMoments, StateMoments

NUM_FOLDS = 20
LEAST_FOLDS = 5  # a standard error from fewer pieces is itself mostly noise


class Additive(Protocol):
    """A summary of states that can be put together with that of other states."""

    def merged(self, other: Any, /) -> Any: ...


A = TypeVar("A", bound=Additive)
S_co = TypeVar("S_co", covariant=True)


class Folds(Protocol[S_co]):
    """A sample of which the whole and all but one fold can be had."""

    @property
    def fold_of(self) -> Mapping[int, int]:
        """Group id -> its fold, 0 to G - 1."""
        ...

    def whole(self) -> S_co: ...

    def leave_one_out(self) -> Iterator[S_co]: ...


class FoldAssignment:
    """Group ids to folds in turn, by first appearance, so that folds have equally many groups (or one more)."""

    def __init__(self, num_folds: int = NUM_FOLDS) -> None:
        if num_folds < LEAST_FOLDS:
            raise ValueError(f"a jackknife needs at least {LEAST_FOLDS} folds, found {num_folds}")
        self.num_folds = num_folds
        self.fold_of: dict[int, int] = {}

    def folds(self, group_N: Tensor, num_rows: int) -> Tensor:
        """(N,) fold of every row; DataError where there is not one integer id per row."""
        if group_N.shape != (num_rows,) or group_N.is_floating_point():
            raise DataError(
                f"expected one integer id of an image or document for each of {num_rows} states, "
                f"found {group_N.dtype} of shape {tuple(group_N.shape)}"
            )
        ids = group_N.tolist()
        for group in dict.fromkeys(ids):
            self.fold_of.setdefault(group, len(self.fold_of) % self.num_folds)
        return torch.tensor([self.fold_of[group] for group in ids])

    def checked(self) -> dict[int, int]:
        """Group id -> fold; DataError where there are too few groups for an interval."""
        if len(self.fold_of) < LEAST_FOLDS:
            raise DataError(
                f"an interval needs at least {LEAST_FOLDS} images or documents, found {len(self.fold_of)}; "
                "measure more of them, or report the value without an interval"
            )
        return dict(self.fold_of)


@dataclass(frozen=True)
class MomentFolds(Generic[A]):
    """One additive summary for each fold; see `FoldedStream`, `state_folds` and `pair_folds`."""

    parts: tuple[A, ...]
    fold_of: Mapping[int, int]

    def whole(self) -> A:
        """All folds together."""
        return reduce(_merged, self.parts)

    def leave_one_out(self) -> Iterator[A]:
        """For every fold all others together, built up from both ends, so that nothing is subtracted."""
        first, *middle, _ = self.parts
        after = list(accumulate(reversed(self.parts[1:]), _merged))
        before = first
        yield after.pop()
        for part in middle:
            yield before.merged(after.pop())
            before = before.merged(part)
        yield before


class FoldedStream(Generic[A]):
    """Gathers one additive summary per fold, batch by batch; a group may come in several batches."""

    def __init__(self, summarise: Callable[..., A], num_folds: int = NUM_FOLDS) -> None:
        self._summarise = summarise
        self._assignment = FoldAssignment(num_folds)
        self._parts: dict[int, A] = {}

    def add(self, group_N: Tensor, *states: Tensor) -> None:
        """Count in a batch: (N,) ids of images or documents, and the table(s) of N rows that are summarised."""
        fold_N = self._assignment.folds(group_N, len(states[0]))
        for fold in fold_N.unique().tolist():
            part = self._summarise(*(table[fold_N == fold] for table in states))
            self._parts[fold] = self._parts[fold].merged(part) if fold in self._parts else part

    def folds(self) -> MomentFolds[A]:
        """The sample so far; DataError where there are too few groups."""
        fold_of = self._assignment.checked()
        return MomentFolds(tuple(self._parts[fold] for fold in sorted(self._parts)), fold_of)


@dataclass(frozen=True)
class StateFolds:
    """The states themselves: for measures that no sums give, evaluated anew without each fold."""

    states_ND: Tensor
    fold_N: Tensor
    fold_of: Mapping[int, int]

    @classmethod
    def of(cls, states_ND: Tensor, group_N: Tensor, *, num_folds: int = NUM_FOLDS) -> "StateFolds":
        """A table of states whose images or documents are `group_N`."""
        assignment = FoldAssignment(num_folds)
        fold_N = assignment.folds(group_N, len(as_states(states_ND)))
        return cls(states_ND, fold_N, assignment.checked())

    def whole(self) -> Tensor:
        """All states."""
        return self.states_ND

    def leave_one_out(self) -> Iterator[Tensor]:
        """For every fold the states without it."""
        for fold in range(int(self.fold_N.max()) + 1):
            yield self.states_ND[self.fold_N != fold]


def state_folds(
    states_ND: Tensor, group_N: Tensor, *, unit_norm: bool = False, num_folds: int = NUM_FOLDS
) -> MomentFolds[StateMoments]:
    """Moments of states in memory, in folds."""
    stream = FoldedStream(partial(StateMoments.of, unit_norm=unit_norm), num_folds)
    stream.add(group_N, as_states(states_ND))
    return stream.folds()


def pair_folds(
    first_NE: Tensor, second_NF: Tensor, group_N: Tensor, *, num_folds: int = NUM_FOLDS
) -> MomentFolds[PairMoments]:
    """Sums of paired states in memory, in folds."""
    first_NE, second_NF = as_pair(first_NE, second_NF)
    origin_Z = torch.cat([first_NE.mean(dim=0), second_NF.mean(dim=0)])
    stream = FoldedStream(partial(PairMoments.of, origin_Z=origin_Z), num_folds)
    stream.add(group_N, first_NE, second_NF)
    return stream.folds()


def _merged(first: A, second: A) -> A:
    return first.merged(second)
