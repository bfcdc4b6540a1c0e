"""Where there is something to keep: how much each configuration forgets at 90 % of what it learns itself."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from textanchor.experiment.reading.runs import INTERPOLATED, Curve
from textanchor.stats import Interval, crossed_interval, place_at_level

SHARE_LEARNED = 0.9
LEAST_NATS, LEAST_POINTS, MOST_FORMAT = 0.2, 0.1, 0.2
"""Headroom: at least so much forgotten, and at most that share of the lost answers lost to their format alone."""


def headroom(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """A row for each configuration that was trained, on the test items."""
    return [_row(curve) for curve in curves if not curve.configuration.arm.endswith(INTERPOLATED)]


def _row(curve: Curve) -> dict[str, Any]:
    gain_P = curve.gain("test")
    place = place_at_level(gain_P.tolist(), SHARE_LEARNED * float(gain_P.max())) if gain_P.max() > 0 else None
    nats = None if place is None else _at(curve, place, "nats")
    points = None if place is None or not curve.correct else _at(curve, place, "correct")
    accuracy_P = curve.accuracy("test")
    share = _format_share(curve)
    large = [
        (nats is not None and nats.estimate >= LEAST_NATS) or (points is not None and points.estimate >= LEAST_POINTS),
        share is not None and share["of_format"] is not None and share["of_format"] <= MOST_FORMAT,
    ]
    return {
        "arm": curve.configuration.arm,
        "configuration": str(curve.configuration),
        "steps": curve.places[-1],
        "seeds": len(curve.seeds),
        "gain": float(gain_P.max()),
        "accuracy": None if accuracy_P is None else [float(accuracy_P[0]), float(accuracy_P[-1])],
        "step": None if place is None else curve.places[place[0]] + place[1] * _stride(curve, place[0]),
        "forgetting": None if nats is None else asdict(nats),
        "points": None if points is None else asdict(points),
        "format": share,
        "verdict": "no" if not large[0] else "yes" if large[1] else "format unknown" if share is None else "format",
    }


def _stride(curve: Curve, before: int) -> float:
    return curve.places[before + 1] - curve.places[before] if before + 1 < len(curve.places) else 0.0


def _at(curve: Curve, place: tuple[int, float], metric: str) -> Interval:
    before, share = place
    values_SPI, weights_I = curve.lost("test", metric)
    after = min(before + 1, values_SPI.shape[1] - 1)
    return crossed_interval((1 - share) * values_SPI[:, before] + share * values_SPI[:, after], weights_I)


def _format_share(curve: Curve) -> dict[str, float | None] | None:
    """Lost right answers after the last step, read strictly, and the share of them that lenient reading finds again."""
    if not curve.free:
        return None
    lost = {
        reading: float(np.mean([_lost(curve.free[task, reading]) for task in curve.retained]))
        for reading in ("strict", "lenient")
    }
    total = lost["strict"]
    return {**lost, "of_format": (total - lost["lenient"]) / total if total > 0 else None}


def _lost(values_S2I: np.ndarray) -> float:
    return float((values_S2I[:, 0] - values_S2I[:, 1]).mean())
