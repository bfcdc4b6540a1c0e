"""Comparison at matched learning: read off known curves, and told as it is, also when APP is not better."""

import pytest

from textanchor.demo.matched import compare_at_matched_learning, headline


def curve(*points: tuple[float, float, float]) -> list[dict]:
    """Points (new accuracy, old accuracy, old nats); text gets worse by .01 nats a point."""
    return [
        {
            "step": step,
            "new": {"accuracy": new, "gold_nats": 1 - new},
            "old": {"accuracy": old, "gold_nats": nats},
            "text_cross_entropy": 2.0 + 0.01 * step,
        }
        for step, (new, old, nats) in enumerate(points)
    ]


START = (0.1, 0.9, 0.3)
FORGETS = curve(START, (0.5, 0.7, 0.8), (0.9, 0.5, 1.3))
KEEPS = curve(START, (0.3, 0.9, 0.3), (0.7, 0.8, 0.4))


def scores(new: float, change: float | None = None) -> dict:
    mean = {} if change is None else {"change": {"accuracy": {"estimate": change}}}
    return {"tasks": {"digits": {"accuracy": {"estimate": new}}}, "old_mean": mean}


def told(full: list[dict], app: list[dict]) -> dict[str, str]:
    matched = compare_at_matched_learning({"full": full, "app": app})
    after = {"full": {"scores": scores(0.9, -0.4)}, "app": {"scores": scores(0.7, 0.0)}}
    return headline("digits", scores(0.1), after, matched)


def test_the_level_is_the_best_that_both_reach_and_values_are_interpolated():
    matched = compare_at_matched_learning({"full": FORGETS, "app": KEEPS})
    assert matched["level"] == 0.7
    assert matched["reached"] == {"full": True, "app": True}
    assert matched["at_level"]["full"] == pytest.approx(
        {"old_accuracy": 0.6, "old_gold_nats": 1.05, "text_cross_entropy": 2.015}
    )
    assert matched["at_level"]["app"] == pytest.approx(
        {"old_accuracy": 0.8, "old_gold_nats": 0.4, "text_cross_entropy": 2.02}
    )


def test_each_verdict_is_told_as_it_is():
    assert told(FORGETS, KEEPS)["better"] == "app"
    assert "APP kept more" in told(FORGETS, KEEPS)["matched_sentence"]
    assert told(KEEPS, FORGETS)["better"] == "full"
    assert "APP kept less" in told(KEEPS, FORGETS)["matched_sentence"]
    almost = curve(START, (0.9, 0.5, 1.27))
    assert told(curve(START, (0.9, 0.5, 1.3)), almost)["better"] == "neither"
    assert "lost 40 points" in told(FORGETS, KEEPS)["sentence"]
    assert "lost nothing" in told(FORGETS, KEEPS)["sentence"]


def test_a_method_that_never_learns_is_named_and_nothing_is_compared():
    stuck = curve(START, (0.1, 0.9, 0.3), (0.05, 0.9, 0.3))
    matched = compare_at_matched_learning({"full": FORGETS, "app": stuck})
    assert matched["level"] is None
    assert matched["reached"] == {"full": True, "app": False}
    said = told(FORGETS, stuck)
    assert said["better"] == "neither"
    assert "app never got better at digits" in said["matched_sentence"]
