"""What the rows of a language suite amount to, and whether that is more than guessing."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from textanchor.evaluation.results.values import Metrics, Summary, per_unit, written
from textanchor.stats import Interval, bootstrap_interval, wilson_interval
from textanchor.tables import Table

ACCURACIES = {"correct": "accuracy", "correct_normalised": "accuracy_normalised", "strict_correct": "strict_accuracy"}
TOLD = ("accuracy", "accuracy_normalised", "gold_nats", "choice_nats")
"""What has a column, or is left to the summary."""
GUESSES = ("at chance", "below chance", "none right")
OF_THE_ITEM = ("chance", "majority_correct", "gold_tokens")
"""Metrics of the items themselves, which no model moves."""


def summarise(metrics: Metrics) -> Summary:
    """Intervals of a language suite; `reading` says how its accuracy stands to chance."""
    summary: Summary = {"num_items": max(map(len, metrics.values()))}
    for metric, values in metrics.items():
        if metric not in OF_THE_ITEM:
            summary[ACCURACIES.get(metric, metric)] = asdict(_interval(values))
    for key in ("chance", "majority_correct"):
        if key in metrics:
            summary[key.removesuffix("_correct")] = sum(metrics[key].values()) / len(metrics[key])
    if "gold_tokens" in metrics:
        summary["gold_nats_per_token"] = per_unit(metrics["gold_nats"], metrics["gold_tokens"])
        summary["num_gold_tokens"] = int(sum(metrics["gold_tokens"].values()))
    if "accuracy" in summary:
        summary["reading"] = _reading(summary)
    return summary


def _interval(values: Mapping[str, float]) -> Interval:
    if set(values.values()) <= {0.0, 1.0}:
        return wilson_interval(round(sum(values.values())), len(values))
    return bootstrap_interval(list(values.values()))


def _reading(summary: Mapping[str, Any]) -> str | None:
    accuracy = summary["accuracy"]
    if "chance" not in summary:
        return "none right" if accuracy["estimate"] == 0 else None
    if accuracy["low"] > summary["chance"]:
        return "above chance"
    return "at chance" if accuracy["high"] >= summary["chance"] else "below chance"


def lines(language: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table of the suites, and a sentence on those whose accuracy says nothing."""
    header = ("language", "items", "accuracy", "by characters", "chance", "reading", "gold nats")
    rows, others = [], []
    for name, suite in language.items():
        accuracies = (written(suite.get(key)) for key in ("accuracy", "accuracy_normalised"))
        chance = f"{suite['chance']:.3f}" if "chance" in suite else "-"
        reading = suite.get("reading") or "-"
        rows.append((name, str(suite["num_items"]), *accuracies, chance, reading, written(suite.get("gold_nats"))))
        extra = [key for key in suite if isinstance(suite[key], dict) and key not in TOLD]
        others += [f"{name}, {key}: {written(suite[key])}" for key in extra]
    told = ["", Table(header, rows).aligned(), *others]
    guessed = [name for name, suite in language.items() if suite.get("reading") in GUESSES]
    if guessed:
        told.append(f"Not better than guessing: {', '.join(guessed)}; there, only gold nats can show a change.")
    return told
