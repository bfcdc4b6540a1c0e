"""C3: task tuning moves the projector's geometry, and that explains forgetting beyond how far the weights moved."""

from collections.abc import Mapping, Sequence

import numpy as np

from textanchor.analysis.claims.claim import ClaimResult, judge
from textanchor.analysis.claims.margins import MARGINS
from textanchor.errors import DataError

LEAST_RUNS = 12
"""Fewer runs than this leave hardly a degree of freedom after two controls."""
NUM_DRAWS = 1000


def partial_rank_correlation(
    measure: Sequence[float], outcome: Sequence[float], controls: Sequence[Sequence[float]]
) -> float:
    """Spearman correlation of two columns over runs after each control's ranks were regressed out of both; -1 to 1.

    All columns are ranked (ties share their mean rank); the result is Pearson's correlation of the residuals of the
    measure's and of the outcome's ranks on those of the controls. Source: Conover, Practical Nonparametric Statistics,
    sec. 5.4, on ranks. DataError for columns of unequal length, values that are not finite, too few runs, and a column
    that the controls leave no variation in.
    """
    from scipy.stats import rankdata

    columns = [np.asarray(column, dtype=np.float64) for column in (measure, outcome, *controls)]
    num_runs = len(columns[0])
    if any(column.shape != (num_runs,) for column in columns):
        raise DataError(f"every column needs one value for each run, found {[len(column) for column in columns]}")
    if num_runs < len(columns) + 2:
        raise DataError(f"{num_runs} runs are too few for {len(controls)} controls; at least {len(columns) + 2}")
    if not all(np.isfinite(column).all() for column in columns):
        raise DataError("a run has a value that is not finite; leave the run out and say so")
    ranks_RC = np.stack([rankdata(column) for column in columns], axis=1)
    design_RC = np.column_stack([np.ones(num_runs), ranks_RC[:, 2:]])
    fitted, *_ = np.linalg.lstsq(design_RC, ranks_RC[:, :2], rcond=None)
    residuals_R2 = ranks_RC[:, :2] - design_RC @ fitted
    sizes_2 = np.linalg.norm(residuals_R2, axis=0)
    if (sizes_2 < 1e-9 * num_runs).any():
        column = ("measure", "outcome")[int(np.argmin(sizes_2))]
        raise DataError(
            f"the controls leave nothing of the {column}'s ranks to correlate: it is constant or follows them"
        )
    return float(residuals_R2[:, 0] @ residuals_R2[:, 1] / sizes_2.prod())


def explanation(runs: Sequence[Mapping[str, float]], measure: str, *, seed: int = 0) -> ClaimResult:
    """Whether a geometry measure explains forgetting over runs beyond log ||Delta W|| and learning.

    Each run holds `measure`, `forgetting` (positive = worse), `relative_update` and `learning`. The interval is a
    percentile bootstrap over runs; draws in which a column does not vary are drawn again. DataError for fewer than 12
    runs, and as `partial_rank_correlation`.
    """
    if len(runs) < LEAST_RUNS:
        raise DataError(f"C3 over runs needs at least {LEAST_RUNS} of them, found {len(runs)}")
    table_RC = np.array(
        [[run[measure], run["forgetting"], np.log(run["relative_update"]), run["learning"]] for run in runs]
    )
    value = _of_table(table_RC)
    rng = np.random.default_rng(seed)
    draws: list[float] = []
    failures = 0
    while len(draws) < NUM_DRAWS:
        try:
            draws.append(_of_table(table_RC[rng.integers(len(runs), size=len(runs))]))
        except DataError:
            failures += 1
            if failures > NUM_DRAWS:
                raise
    low, high = np.quantile(draws, [0.025, 0.975])
    return ClaimResult(
        claim="C3",
        name=f"explanation by {measure}",
        statement=f"Over runs, {measure} goes with forgetting beyond what the size of the update and learning explain "
        "(partial rank correlation)",
        place="projector",
        value=value,
        null=0.0,
        margin=MARGINS.explanation,
        direction="above",
        interval=(float(low), float(high)),
        interval_kind=f"95 % percentile bootstrap over {len(runs)} runs",
        verdict=judge((float(low), float(high)), null=0.0, margin=MARGINS.explanation, direction="above"),
        caveat="A correlation over runs is no cause; whether the geometry causes forgetting is asked by intervening on "
        "single bands of one update.",
    )


def _of_table(table_RC: np.ndarray) -> float:
    measure, outcome, size, learning = table_RC.T
    return partial_rank_correlation(measure, outcome, [size, learning])
