"""Resampled means of every condition of one update: the same items are drawn for all conditions and all updates.

Shape legend: B draws (the first is the sample itself), C conditions, N items of a suite.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from page.rows import unpack
from textanchor.records import RunRecord
from textanchor.stats import Interval, interpolate_at_level

NUM_DRAWS = 500
LEVEL = 0.95
TEXT = "text"
Kept = Literal["retained", "text"]

Key = tuple[Any, ...]
"""(kind, band, extent), or ("wise", alpha)."""


def key_of(condition: Mapping[str, Any]) -> Key:
    """What a condition did."""
    if condition["kind"] in ("wise", "base"):
        return (condition["kind"], condition["alpha"])
    extents = [condition[name] for name in ("share", "count", "fraction") if name in condition]
    return (condition["kind"], condition["band"], extents[0])


@dataclass(frozen=True)
class UpdateDraws:
    """The conditions of one update, scored on resampled items."""

    record: RunRecord

    @property
    def task(self) -> str:
        """What the model was tuned on."""
        return self.record.extra["task"]

    @cached_property
    def conditions(self) -> dict[Key, dict[str, Any]]:
        """Condition by what it did."""
        return {key_of(condition): condition for condition in self.record.extra["conditions"]}

    @cached_property
    def _rows(self) -> dict[Key, dict[str, dict[str, list[float]]]]:
        return {key: unpack(condition["rows"]) for key, condition in self.conditions.items()}

    def old(self, key: Key, metric: str = "gold_nats") -> np.ndarray:
        """(B,) mean over the retained suites of their items' means."""
        rows = self._rows[key]
        return np.mean([_means(suite, rows[suite][metric]) for suite in self.record.extra["retained"]], axis=0)

    def new(self, key: Key, metric: str = "gold_nats") -> np.ndarray:
        """(B,) mean of the new task's items."""
        return _means(self.task, self._rows[key][self.task][metric])

    def learned(self, key: Key) -> np.ndarray:
        """(B,) nats by which the new task's answers beat an even guess among its choices, 0 while they do not.

        In records that do not say what a guess costs, the gold answer's nats with the other sign.
        """
        guess = self.record.extra.get("guess_nats")
        return -self.new(key) if guess is None else np.maximum(guess - self.new(key, "choice_nats"), 0)

    def text(self, key: Key) -> np.ndarray:
        """(B,) nats per token of the texts."""
        rows = self._rows[key][TEXT]
        return _means(TEXT, rows["nats"]) / _means(TEXT, rows["num_tokens"])

    @cached_property
    def front(self) -> list[Key]:
        """WiSE-FT from the base to the tuned model."""
        return sorted(key for key in self.conditions if key[0] == "wise")

    def kept(self, key: Key, what: Kept) -> np.ndarray:
        """(B,) what is to be kept: nats of the retained tasks, or of each token of the texts."""
        return self.old(key) if what == "retained" else self.text(key)

    @cached_property
    def _beyond(self) -> dict[tuple[Key, Kept], np.ndarray]:
        return {}

    def beyond_front(self, key: Key, what: Kept = "retained") -> np.ndarray:
        """(B,) nats that WiSE-FT pays more for the same learning; NaN where its front does not reach it."""
        if (key, what) not in self._beyond:
            learned_BC = np.stack([self.learned(point) for point in self.front], 1)
            kept_BC = np.stack([self.kept(point, what) for point in self.front], 1)
            pairs = zip(learned_BC, kept_BC, self.learned(key), self.kept(key, what), strict=True)
            values = [_at(learned_C, kept_C, level) - kept for learned_C, kept_C, level, kept in pairs]
            self._beyond[key, what] = np.array(values)
        return self._beyond[key, what]


def _at(learned_C: np.ndarray, kept_C: np.ndarray, level: float) -> float:
    """Between two points of the front only: not before its start, not behind its best."""
    found = interpolate_at_level(learned_C.tolist(), kept_C.tolist(), level) if level >= learned_C[0] else None
    return float("nan") if found is None else found


def _means(suite: str, values_N: Sequence[float]) -> np.ndarray:
    return weights_of(suite, len(values_N)) @ np.asarray(values_N)


def weights_of(name: str, count: int) -> np.ndarray:
    """(B, N) weights of a bootstrap over N items, the same for the same name; the first row weighs all alike."""
    found = _WEIGHTS.get((name, count))
    if found is None:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        drawn_BN = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=NUM_DRAWS)
        found = _WEIGHTS[name, count] = np.concatenate([np.ones((1, count)), drawn_BN]) / count
    return found


_WEIGHTS: dict[tuple[str, int], np.ndarray] = {}


def over_updates(updates: Sequence[UpdateDraws], value: Callable[[UpdateDraws], np.ndarray]) -> Interval | None:
    """Mean over updates with its interval: updates are drawn as blocks, items within them; None where none has it.

    An update whose own value is NaN is left out.
    """
    values_UB = np.array([value(update) for update in updates])
    values_UB = values_UB[~np.isnan(values_UB[:, 0])] if len(values_UB) else values_UB
    if not len(values_UB):
        return None
    return interval_of(mean_of_present(values_UB, weights_of("updates", len(values_UB))))


def mean_of_present(values_UB: np.ndarray, weights_BU: np.ndarray | None = None) -> np.ndarray:
    """(B,) weighted mean over the rows that have a value in that draw; NaN where none has one."""
    present_BU = ~np.isnan(values_UB.T)
    weights_BU = present_BU * (1.0 if weights_BU is None else weights_BU)
    sums_B, totals_B = (weights_BU * np.nan_to_num(values_UB.T)).sum(axis=1), weights_BU.sum(axis=1)
    return np.divide(sums_B, totals_B, out=np.full_like(sums_B, np.nan), where=totals_B > 0)


def interval_of(draws_B: np.ndarray) -> Interval:
    """The first draw as estimate, the percentiles of the others as its ends."""
    low, high = np.nanquantile(draws_B[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(draws_B[0]), float(low), float(high))
