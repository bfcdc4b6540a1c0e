"""Curves compared where they have learned equally much, with configurations chosen on other items than those scored.

Learning is a share: 1 is the largest gain (`Curve.gain`) that any configuration of the task reached, mean over seeds,
chosen on the validation items. Curves are linear between scored points and end at their ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from textanchor.evaluation.results.retention import CurvePoint, matched_learning
from textanchor.experiment.reading.runs import Configuration, Curve
from textanchor.stats import Interval, crossed_interval, interpolate_at_level, place_at_level

LEVELS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""Shares of the reference gain over which retention is averaged: .5 to .95."""


@dataclass(frozen=True)
class Reference:
    """What counts as having learned the whole of one task."""

    configuration: Configuration
    place: float
    gain: Mapping[str, float]
    """By split, at that configuration and point."""

    def learned(self, curve: Curve, split: str) -> np.ndarray:
        """(P,) learning at each point of the curve."""
        return curve.gain(split) / self.gain[split]


def reference_of(curves: Sequence[Curve]) -> Reference | None:
    """The point with the largest gain on the validation items; None where nothing was learned on either split."""
    best = max(curves, key=lambda curve: curve.gain("validation").max())
    point = int(best.gain("validation").argmax())
    gain = {split: float(best.gain(split)[point]) for split in ("validation", "test")}
    if min(gain.values()) <= 0:
        return None
    return Reference(best.configuration, best.places[point], gain)


def by_arm(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """The curves of each arm."""
    arms: dict[str, list[Curve]] = {}
    for curve in curves:
        arms.setdefault(curve.configuration.arm, []).append(curve)
    return arms


def chosen_at(curves: Sequence[Curve], reference: Reference, level: float) -> Curve | None:
    """Of one arm's curves, the one that forgets least at this level on the validation items, if any reaches it."""
    found = [
        (value, number)
        for number, curve in enumerate(curves)
        if (value := _validation_value(curve, reference, level)) is not None
    ]
    return curves[min(found)[1]] if found else None


def _validation_value(curve: Curve, reference: Reference, level: float) -> float | None:
    learned = reference.learned(curve, "validation").tolist()
    return interpolate_at_level(learned, curve.mean_lost("validation").tolist(), level)


def items_at(curve: Curve, reference: Reference, level: float, metric: str = "nats") -> np.ndarray | None:
    """(S, I) how much worse each retained test item is where the mean over seeds has learned `level`; None beyond."""
    place = place_at_level(reference.learned(curve, "test").tolist(), level)
    if place is None:
        return None
    before, share = place
    values_SPI, _ = curve.lost("test", metric)
    after = min(before + 1, values_SPI.shape[1] - 1)
    return (1 - share) * values_SPI[:, before] + share * values_SPI[:, after]


def forgetting_at(curve: Curve, reference: Reference, level: float, metric: str = "nats") -> Interval | None:
    """Mean forgetting on the test items at that learning, with its interval over seeds and items."""
    values_SI = items_at(curve, reference, level, metric)
    return None if values_SI is None else crossed_interval(values_SI, curve.lost("test", metric)[1])


def difference_at(first: Curve, second: Curve, reference: Reference, level: float) -> tuple[Interval, int] | None:
    """Forgetting of the first minus that of the second, paired by seed and item, and the number of common seeds."""
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    if not seeds:
        return None
    pair = [items_at(curve.of_seeds(seeds), reference, level) for curve in (first, second)]
    if pair[0] is None or pair[1] is None:
        return None
    return crossed_interval(pair[0] - pair[1], first.lost("test")[1]), len(seeds)


def matched(curves: Sequence[Curve], reference: Reference) -> dict[str, Any]:
    """Every arm at the most learning that all of them reach, and all pairs of arms at the most that both reach."""
    arms = by_arm(curves)
    level = _common_level(arms, reference)
    rows: list[dict[str, Any]] = []
    for arm, own in arms.items():
        curve = None if level is None else chosen_at(own, reference, level)
        nats = None if curve is None or level is None else forgetting_at(curve, reference, level)
        row: dict[str, Any] = {"arm": arm, "needs": own[0].needs, "configurations": len(own)}
        if curve is None or level is None or nats is None:
            rows.append({**row, "configuration": None, "forgetting": None, "points": None, "text": None, "seeds": 0})
            continue
        points = forgetting_at(curve, reference, level, "correct") if curve.correct else None
        rows.append(
            {
                **row,
                "configuration": str(curve.configuration),
                "forgetting": asdict(nats),
                "points": None if points is None else asdict(points),
                "text": _text_at(curve, reference, level),
                "seeds": len(curve.seeds),
            }
        )
    return {"level": level, "rows": rows, "pairs": _pairs(arms, reference)}


def _common_level(arms: Mapping[str, Sequence[Curve]], reference: Reference) -> float | None:
    """The most that all arms learn, each by its configuration that learns most, on both splits."""
    levels = []
    for split in ("validation", "test"):
        best = {arm: max(own, key=lambda c: float(reference.learned(c, split).max())) for arm, own in arms.items()}
        points = {
            arm: [CurvePoint(learned, {}) for learned in reference.learned(curve, split).tolist()]
            for arm, curve in best.items()
        }
        levels.append(matched_learning(points).level)
    return None if None in levels else min(levels)


def _pairs(arms: Mapping[str, Sequence[Curve]], reference: Reference) -> list[dict[str, Any]]:
    """Each pair at a level of its own, so that an arm that learns little does not decide where the others are read."""
    found = [_pair({name: arms[name] for name in names}, reference) for names in combinations(arms, 2)]
    return [pair for pair in found if pair is not None]


def _pair(arms: Mapping[str, Sequence[Curve]], reference: Reference) -> dict[str, Any] | None:
    """Two arms at the most learning that both reach; None where there is none, or no seed of both."""
    level = _common_level(arms, reference)
    if level is None:
        return None
    first, second = (chosen_at(own, reference, level) for own in arms.values())
    if first is None or second is None:
        return None
    compared = difference_at(first, second, reference, level)
    if compared is None:
        return None
    names = dict(zip(("first", "second"), arms, strict=True))
    same_needs = first.needs == second.needs
    return {**names, "same_needs": same_needs, "level": level, "seeds": compared[1], **asdict(compared[0])}


def _text_at(curve: Curve, reference: Reference, level: float) -> float | None:
    if curve.text is None:
        return None
    mean_P = curve.text.mean(axis=0)
    return interpolate_at_level(reference.learned(curve, "test").tolist(), (mean_P - mean_P[0]).tolist(), level)


def fronts(curves: Sequence[Curve], reference: Reference) -> dict[str, Any]:
    """For each arm the least forgetting at each level, chosen on validation and scored on test items, and its mean.

    The mean is over the levels that every arm reaches, so that it is of the same learning for all; a level that an arm
    does not reach is None and never guessed.
    """
    rows = []
    for arm, own in by_arm(curves).items():
        values = []
        for level in LEVELS:
            curve = chosen_at(own, reference, level)
            found = None if curve is None else forgetting_at(curve, reference, level)
            values.append(
                None
                if curve is None or found is None
                else {"configuration": str(curve.configuration), "forgetting": found.estimate}
            )
        rows.append({"arm": arm, "needs": own[0].needs, "configurations": len(own), "values": values})
    common = [i for i in range(len(LEVELS)) if all(row["values"][i] is not None for row in rows)]
    for row in rows:
        reached = [LEVELS[i] for i, value in enumerate(row["values"]) if value is not None]
        row["reached_to"] = max(reached, default=None)
        row["mean"] = float(np.mean([row["values"][i]["forgetting"] for i in common])) if common else None
    return {"levels": list(LEVELS), "common": [LEVELS[i] for i in common], "rows": rows}
