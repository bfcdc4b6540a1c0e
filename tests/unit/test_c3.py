"""Partial rank correlation over runs, against the inverse of the rank correlation matrix, and the claim made of it."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from textanchor.analysis.claims.c3 import explanation, partial_rank_correlation
from textanchor.errors import DataError


def by_inverse(columns: np.ndarray) -> float:
    """Partial correlation of the first two columns given all others, from the precision of the rank correlations."""
    precision = np.linalg.inv(spearmanr(columns).statistic)
    return float(-precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1]))


@pytest.mark.parametrize("seed", range(4))
def test_against_the_inverse_of_the_correlations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(40, 4)) @ rng.normal(size=(4, 4))
    columns[:, 1] = np.round(columns[:, 1])  # ties
    found = partial_rank_correlation(columns[:, 0], columns[:, 1], list(columns[:, 2:].T))
    assert found == pytest.approx(by_inverse(columns), abs=1e-10)


def planted(effect: float, num_runs: int = 60) -> list[dict[str, float]]:
    """Forgetting by the size of the update, and by the drift as far as `effect` says."""
    rng = np.random.default_rng(0)
    size, learning = rng.normal(size=(2, num_runs))
    drift = size + 0.5 * rng.normal(size=num_runs)  # goes with size in any case
    forgetting = 2 * size + 0.5 * learning + effect * (drift - size) + 0.3 * rng.normal(size=num_runs)
    return [
        {"drift": d, "forgetting": f, "relative_update": float(np.exp(s)), "learning": le}
        for d, f, s, le in zip(drift, forgetting, size, learning, strict=True)
    ]


def test_a_measure_that_only_follows_size_explains_nothing() -> None:
    runs = planted(0.0)
    drift, forgetting = ([run[key] for run in runs] for key in ("drift", "forgetting"))
    assert spearmanr(drift, forgetting).statistic > 0.7, "it looks like an explanation without the controls"
    claim = explanation(runs, "drift")
    assert abs(claim.value) < 0.3
    assert claim.verdict != "holds"


def test_a_measure_with_an_effect_of_its_own_explains() -> None:
    claim = explanation(planted(3.0), "drift")
    assert claim.verdict == "holds"
    assert claim.interval[0] > 0.3


@pytest.mark.parametrize(
    ("columns", "fragment"),
    [
        (([1.0, 2.0], [1.0], []), "one value for each run"),
        (([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [[3.0, 1.0, 2.0]]), "too few"),
        (([1.0, 2.0, 3.0, 4.0, float("nan")], [1.0, 2.0, 3.0, 4.0, 5.0], [[1.0, 2.0, 3.0, 4.0, 5.0]]), "not finite"),
        (([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 5.0, 3.0, 2.0, 4.0, 6.0], [[1.0, 2.0, 3.0, 4.0, 6.0, 5.0]]), "measure"),
        (([1.0, 5.0, 3.0, 2.0, 4.0, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]), "outcome"),
    ],
)
def test_bad_columns_are_refused(columns: Any, fragment: str) -> None:
    with pytest.raises(DataError, match=fragment):
        partial_rank_correlation(*columns)


def test_few_runs_are_refused() -> None:
    with pytest.raises(DataError, match="at least 12 of them, found 11"):
        explanation(planted(1.0, num_runs=11), "drift")
