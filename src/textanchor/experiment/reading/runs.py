"""The records of a comparison as curves: for each configuration, seeds crossed with items at every scored point.

Shape legend: S seeds, P points of a curve, I items.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textanchor.errors import DataError
from textanchor.experiment.columns import part, unpack_flags, unpack_numbers
from textanchor.records import RunRecord

INTERPOLATED = "+wise_ft"
"""Ends the name of the arm that an arm's weights on the way back to the base make."""
SPLITS = ("validation", "test")
UNPACKED = {"gold_nats": unpack_numbers, "choice_nats": unpack_numbers, "correct": unpack_flags}
"""Column of a task -> how it is read."""


@dataclass(frozen=True, order=True)
class Configuration:
    """One arm at one strength and one learning rate."""

    arm: str
    strength: str
    rate: str

    def __str__(self) -> str:
        return " ".join(filter(None, (self.strength, self.rate)))


@dataclass(frozen=True)
class Curve:
    """One configuration on one new task: values of every item at each point, 0 being the base model."""

    task: str
    configuration: Configuration
    needs: str
    seeds: tuple[int, ...]
    places: tuple[float, ...]
    """Step of each point; alpha where the weights are interpolated."""
    new: str
    retained: tuple[str, ...]
    nats: dict[tuple[str, str], np.ndarray]
    """(task, split) -> (S, P, I) cross-entropy of the gold answer."""
    choice_nats: dict[tuple[str, str], np.ndarray]
    """The same among the choices alone; without tasks that have no choices."""
    guess_nats: dict[tuple[str, str], float]
    """(task, split) -> what an even guess among the choices costs."""
    correct: dict[tuple[str, str], np.ndarray]
    """The same, 1 where the most likely choice is gold; without tasks that have no choices."""
    text: np.ndarray | None
    """(S, P) nats per token of plain text; None where the language model is frozen."""
    free: dict[tuple[str, str], np.ndarray]
    """(task, "strict" or "lenient") -> (S, 2, I) right free answers before and after; empty where none were asked."""

    def gain(self, split: str) -> np.ndarray:
        """(P,) nats that were learned, mean over seeds and items.

        By how much the answers among the choices are better than an even guess, 0 while they are not, so that learning
        which words answers consist of counts for nothing; of a task without choices the fall of the gold answer's nats.
        """
        key = self.new, split
        if key not in self.choice_nats:
            mean_P = self.nats[key].mean(axis=(0, 2))
            return mean_P[0] - mean_P
        known_P = np.maximum(self.guess_nats[key] - self.choice_nats[key].mean(axis=(0, 2)), 0)
        return known_P - known_P[0]

    def accuracy(self, split: str) -> np.ndarray | None:
        """(P,) accuracy on the new task."""
        values = self.correct.get((self.new, split))
        return None if values is None else values.mean(axis=(0, 2))

    def lost(self, split: str, metric: str = "nats") -> tuple[np.ndarray, np.ndarray]:
        """(S, P, I) how much worse every retained item is than before, and (I,) weights that sum tasks to equal shares.

        In nats, or with metric "correct" in shares of right answers.
        """
        columns, sign = (self.nats, 1.0) if metric == "nats" else (self.correct, -1.0)
        values = [columns[task, split] for task in self.retained if (task, split) in columns]
        if not values:
            raise DataError(f"{self.task}: no retained task has {metric} in its records; name tasks with choices")
        worse = [sign * (value - value[:, :1]) for value in values]
        weights = [np.full(value.shape[2], 1 / (len(values) * value.shape[2])) for value in values]
        return np.concatenate(worse, axis=2), np.concatenate(weights)

    def mean_lost(self, split: str, metric: str = "nats") -> np.ndarray:
        """(P,) mean over seeds and tasks, each task with the same weight."""
        values_SPI, weights_I = self.lost(split, metric)
        return values_SPI.mean(axis=0) @ weights_I

    def of_seeds(self, seeds: Sequence[int]) -> "Curve":
        """The same with these seeds alone."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return Curve(
            self.task,
            self.configuration,
            self.needs,
            tuple(seeds),
            self.places,
            self.new,
            self.retained,
            {key: value[rows] for key, value in self.nats.items()},
            {key: value[rows] for key, value in self.choice_nats.items()},
            self.guess_nats,
            {key: value[rows] for key, value in self.correct.items()},
            None if self.text is None else self.text[rows],
            {key: value[rows] for key, value in self.free.items()},
        )


def curves_of(records: Iterable[RunRecord]) -> list[Curve]:
    """Curves by task, arm, strength and rate; DataError where records are of other items, models or code."""
    groups: dict[tuple[str, Configuration], dict[int, RunRecord]] = defaultdict(dict)
    for record in records:
        cell = record.extra["cell"]
        key = cell["task"], Configuration(cell["arm"], cell["strength"], cell["rate"])
        if record.seed in groups[key]:
            raise DataError(f"{record.name}: two records of this cell; do not mix comparisons")
        groups[key][record.seed] = record
    _require_one(groups)
    curves = []
    for (task, configuration), by_seed in sorted(groups.items()):
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        curves.append(_curve(task, configuration, runs, "step"))
        if all("wise_ft" in run.extra for run in runs):
            between = Configuration(configuration.arm + INTERPOLATED, configuration.strength, configuration.rate)
            curves.append(_curve(task, between, runs, "alpha"))
    return curves


def _require_one(groups: dict[tuple[str, Configuration], dict[int, RunRecord]]) -> None:
    """All records are of one code; those of one task ask one model the same items."""
    asked: dict[tuple[str, str], tuple[str, str]] = {}
    for (task, _), by_seed in groups.items():
        for record in by_seed.values():
            suites = {name: record.hashes[name] for name in (*record.extra["items"], "text")}
            for key, value in {"code": record.hashes["code"], "model": record.hashes["model"], **suites}.items():
                place = ("", "code") if key == "code" else (task, key)
                name, first = asked.setdefault(place, (record.name, value))
                if first != value:
                    raise DataError(
                        f"{record.name} and {name} differ in {key}, so they cannot be compared; keep comparisons in "
                        "folders of their own"
                    )


def _curve(task: str, configuration: Configuration, runs: Sequence[RunRecord], axis: str) -> Curve:
    entries = [_entries(run, axis) for run in runs]
    places = {tuple(float(entry[axis]) for entry in found) for found in entries}
    if len(places) > 1:
        raise DataError(f"{runs[0].name}: its seeds were scored at different steps; run them with one matrix")
    cell = runs[0].extra["cell"]
    found: dict[str, dict[tuple[str, str], np.ndarray]] = {name: {} for name in UNPACKED}
    for name, items in runs[0].extra["items"].items():
        count = len(items["validation"])
        for metric, unpack in UNPACKED.items():
            if metric in entries[0][0]["tasks"][name]:
                values = [[unpack(entry["tasks"][name][metric]) for entry in own] for own in entries]
                for split in SPLITS:
                    found[metric][name, split] = np.array([[part(v, count, split) for v in own] for own in values])
    return Curve(
        task=task,
        configuration=configuration,
        needs=cell["needs"],
        seeds=tuple(run.seed for run in runs),
        places=places.pop(),
        new=cell["new"],
        retained=tuple(cell["retained"]),
        nats=found["gold_nats"],
        choice_nats=found["choice_nats"],
        guess_nats={
            (name, split): nats
            for name, by_split in runs[0].extra.get("guess_nats", {}).items()
            for split, nats in by_split.items()
        },
        correct=found["correct"],
        text=_text(entries, sum(runs[0].extra["text_tokens"])) if cell["trains_language"] else None,
        free=_free(runs) if axis == "step" else {},
    )


def _entries(run: RunRecord, axis: str) -> list[dict[str, Any]]:
    curve = run.extra["curve"]
    if axis == "step":
        return curve
    return [
        {**curve[0], "alpha": 0.0},
        *sorted(run.extra["wise_ft"], key=lambda e: e["alpha"]),
        {**curve[-1], "alpha": 1.0},
    ]


def _text(entries: Sequence[Sequence[dict[str, Any]]], num_tokens: int) -> np.ndarray:
    return np.array([[sum(unpack_numbers(entry["text_nats"])) / num_tokens for entry in found] for found in entries])


def _free(runs: Sequence[RunRecord]) -> dict[tuple[str, str], np.ndarray]:
    if not all("free" in run.extra for run in runs):
        return {}
    first = runs[0].extra["free"]["before"]
    return {
        (task, reading): np.array(
            [[unpack_flags(run.extra["free"][when][task][reading]) for when in ("before", "after")] for run in runs]
        )
        for task in first
        for reading in ("strict", "lenient")
    }
