"""From what lm-eval logs of an item to our `Score` rows; nothing here needs lm-eval."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

STRICT, FLEXIBLE = "strict-match", "flexible-extract"
PLAIN_FILTER = "none"

Values = dict[str, tuple[float, str | None]]
"""Metric -> value and, where it shows what the model said, the raw answer."""


def choice_values(log_likelihoods: Sequence[float], choices: Sequence[str], gold: int) -> Values:
    """Values of a multiple-choice item beside lm-eval's own; gold_place is the place of the right choice.

    `log_likelihoods` are sums over the tokens of each choice, in nats.
    """
    scores_C = np.asarray(log_likelihoods, dtype=np.float64)
    log_share = scores_C[gold] - np.logaddexp.reduce(scores_C)
    return {
        "gold_nats": (float(-scores_C[gold]), None),
        "choice_nats": (float(-log_share), None),
        "correct": (float(scores_C.argmax() == gold), choices[int(scores_C.argmax())]),
        "chance": (1 / len(choices), None),
        "gold_place": (float(gold), None),
    }


def own_metrics(samples: Sequence[Mapping[str, Any]]) -> Values:
    """What lm-eval scored of one item, one sample for each answer filter; metrics that are no number per item are left.

    `acc`, `acc_norm` and the two readings of an exact match have our names; the rest keep theirs.
    """
    values: Values = {}
    for sample in samples:
        for metric in sample["metrics"]:
            value = sample[metric]
            if isinstance(value, bool | int | float | np.number) and np.isfinite(float(value)):
                name = _name(metric, sample["filter"])
                values[name] = (float(value), _answer(sample) if name != "strict_correct" else None)
    return values


def _name(metric: str, answer_filter: str) -> str:
    if answer_filter == PLAIN_FILTER:
        return {"acc": "correct", "acc_norm": "correct_normalised"}.get(metric, metric)
    if metric == "exact_match" and answer_filter in (STRICT, FLEXIBLE):
        return "strict_correct" if answer_filter == STRICT else "correct"
    return f"{metric},{answer_filter}"


def _answer(sample: Mapping[str, Any]) -> str | None:
    """The generated text; None where candidates were scored instead."""
    first = sample["resps"][0]
    while isinstance(first, list | tuple) and first:
        first = first[0]
    return first if isinstance(first, str) else None
