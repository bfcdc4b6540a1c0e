"""From `Score` rows to what is told of generated text: answers read strictly and leniently, and captions' CIDEr-D."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from textanchor.evaluation.results.summary import values_of
from textanchor.records import Score
from textanchor.stats import bootstrap_interval


def summarise_generated(scores: Sequence[Score]) -> dict[str, Any]:
    """`free_answers` and `captions` by suite, where there are some.

    Of free answers `accuracy` is read leniently and `strict_accuracy` strictly: the difference is a loss of format,
    not of ability. `unparsed` is the share that names no choice or several, None for open questions.
    """
    metrics: dict[str, set[str]] = {}
    for score in scores:
        metrics.setdefault(score.suite, set()).add(score.metric)
    free = {suite: _free(scores, suite, own) for suite, own in metrics.items() if "free_correct" in own}
    captions = {suite: _interval(scores, suite, "cider_d") for suite, own in metrics.items() if "cider_d" in own}
    summary: dict[str, Any] = {"free_answers": free} if free else {}
    return summary | ({"captions": {suite: {"cider_d": own} for suite, own in captions.items()}} if captions else {})


def _free(scores: Sequence[Score], suite: str, metrics: set[str]) -> dict[str, Any]:
    parsed = _interval(scores, suite, "free_parsed")["estimate"] if "free_parsed" in metrics else None
    return {
        "accuracy": _interval(scores, suite, "free_correct"),
        "strict_accuracy": _interval(scores, suite, "free_strict_correct"),
        "unparsed": None if parsed is None else 1 - parsed,
    }


def _interval(scores: Sequence[Score], suite: str, metric: str) -> dict[str, float]:
    return asdict(bootstrap_interval(list(values_of(scores, suite, metric).values())))
