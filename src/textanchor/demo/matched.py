"""What was kept at equal learning, and what that means in plain language."""

from collections.abc import Mapping, Sequence
from typing import Any

from textanchor.evaluation.results.retention import CurvePoint, matched_learning

SMALLEST_EFFECT_NATS = 0.05
"""Differences of the old tasks' cross-entropy below this are called none."""
KEPT = {"old_accuracy": ("old", "accuracy"), "old_gold_nats": ("old", "gold_nats")}

Curve = Sequence[Mapping[str, Any]]


def compare_at_matched_learning(curves: Mapping[str, Curve]) -> dict[str, Any]:
    """The `matched` object of report.json: what is kept where each curve reaches the best accuracy that all reach."""
    found = matched_learning({name: [_point(point) for point in curve] for name, curve in curves.items()})
    return {"metric": "accuracy", "level": found.level, "reached": found.reached, "at_level": found.kept}


def _point(point: Mapping[str, Any]) -> CurvePoint:
    kept = {key: point[part][metric] for key, (part, metric) in KEPT.items()}
    return CurvePoint(point["new"]["accuracy"], {**kept, "text_cross_entropy": point["text_cross_entropy"]})


def headline(
    task: str, before: Mapping[str, Any], after: Mapping[str, Any], matched: Mapping[str, Any]
) -> dict[str, str]:
    """The `headline` object of report.json: two sentences and which method kept more, or neither."""
    start = before["tasks"][task]["accuracy"]["estimate"]
    parts = []
    for name, title in (("full", "Plain tuning"), ("app", "APP")):
        scores = after[name]["scores"]
        learned = scores["tasks"][task]["accuracy"]["estimate"]
        lost = scores["old_mean"]["change"]["accuracy"]["estimate"]
        parts.append(f"{title} learned {task} ({start:.0%} to {learned:.0%}) and {_lost(lost)} on the old tasks")
    sentence = "; ".join(parts) + "."
    if matched["level"] is None:
        return {"sentence": sentence, "matched_sentence": _not_reached(task, matched), "better": "neither"}
    kept = {name: matched["at_level"][name] for name in after}
    gain = kept["full"]["old_gold_nats"] - kept["app"]["old_gold_nats"]
    better = "neither" if abs(gain) < SMALLEST_EFFECT_NATS else "app" if gain > 0 else "full"
    verdict = {
        "app": "APP kept more of the old tasks than plain tuning",
        "full": "APP kept less of the old tasks than plain tuning",
        "neither": "APP and plain tuning kept the old tasks equally well",
    }[better]
    compared = (
        f"Where both have learned {task} to {matched['level']:.0%}, {verdict}: accuracy "
        f"{kept['app']['old_accuracy']:.0%} against {kept['full']['old_accuracy']:.0%}, cross-entropy of the right "
        f"answer {kept['app']['old_gold_nats']:.2f} against {kept['full']['old_gold_nats']:.2f} nats, text "
        f"{kept['app']['text_cross_entropy']:.3f} against {kept['full']['text_cross_entropy']:.3f} nats per token. "
        "One seed, small sets, one learning rate, and new images that look unlike the old ones (the easy case for a "
        "hold on inputs): an illustration, not evidence."
    )
    return {"sentence": sentence, "matched_sentence": compared, "better": better}


def _lost(change: float) -> str:
    points = round(100 * change)
    if points == 0:
        return "lost nothing"
    return f"{'gained' if points > 0 else 'lost'} {abs(points)} point{'s' if abs(points) > 1 else ''}"


def _not_reached(task: str, matched: Mapping[str, Any]) -> str:
    never = [name for name, reached in matched["reached"].items() if not reached]
    return f"No comparison at equal learning: {' and '.join(never)} never got better at {task} than before tuning."
