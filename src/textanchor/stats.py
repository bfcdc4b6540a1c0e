"""Intervals, paired differences and values read off a learning-retention curve; numpy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from textanchor.errors import DataError

DRAWS_AT_ONCE = 100


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval, in the unit of the values."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, *, level: float = 0.95, num_draws: int = 2000, seed: int = 0
) -> Interval:
    """Mean of (N,) values with its percentile bootstrap interval (Efron 1979); items are the unit of resampling.

    Raises DataError where there are no values or one is not finite, because a mean of those would look like a result.
    """
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.ndim != 1 or values_N.size == 0:
        raise DataError(f"an interval needs a list of at least one value, found an array of shape {values_N.shape}")
    if not np.isfinite(values_N).all():
        raise DataError(f"an interval needs finite values, found {values_N[~np.isfinite(values_N)][0]}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, found {level}")
    rng = np.random.default_rng(seed)
    means = [
        values_N[rng.integers(values_N.size, size=(min(DRAWS_AT_ONCE, num_draws - start), values_N.size))].mean(axis=1)
        for start in range(0, num_draws, DRAWS_AT_ONCE)  # in blocks, so that memory stays small for many items
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values_N.mean()), float(low), float(high))


def paired_difference(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    level: float = 0.95,
    num_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of after - before over items paired by id, with its bootstrap interval; DataError where ids do not match."""
    differences = list(item_differences(before, after).values())
    return bootstrap_interval(differences, level=level, num_draws=num_draws, seed=seed)


def item_differences(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """After - before of every item; DataError where the two do not hold the same ids."""
    unmatched = sorted(before.keys() ^ after.keys())
    if unmatched:
        raise DataError(
            f"{len(unmatched)} of {len(before.keys() | after.keys())} item ids are in only one of the two runs "
            f"(first: {unmatched[0]!r}); paired scores need the same items, so evaluate both with the same suites"
        )
    return {item_id: after[item_id] - before[item_id] for item_id in before}


def mean_over_groups(groups: Sequence[Mapping[str, float]]) -> Interval:
    """Mean of the groups' means, each group with the same weight, with its bootstrap interval over items."""
    total = sum(map(len, groups))
    return bootstrap_interval(
        [value * total / (len(groups) * len(group)) for group in groups for value in group.values()]
    )


def ratio_values(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """A value for each item whose mean is the ratio of the two sums and whose spread is the ratio's (delta method)."""
    ratio = sum(sums.values()) / sum(counts.values())
    mean_count = sum(counts.values()) / len(counts)
    return {item: ratio + (sums[item] - ratio * counts[item]) / mean_count for item in sums}


def wilson_interval(num_right: int, num_items: int, *, level: float = 0.95) -> Interval:
    """Share of right answers with Wilson's score interval (1927), which is no point where all or none are right."""
    if not 0 <= num_right <= num_items or num_items == 0:
        raise DataError(
            f"a share needs at least one item and no more right ones than items: {num_right} of {num_items}"
        )
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = num_right / num_items
    centre = (share + z**2 / (2 * num_items)) / (1 + z**2 / num_items)
    half = z / (1 + z**2 / num_items) * (share * (1 - share) / num_items + z**2 / (4 * num_items**2)) ** 0.5
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def crossed_interval(
    values_SI: np.ndarray, weights_I: np.ndarray, *, level: float = 0.95, num_draws: int = 2000, seed: int = 0
) -> Interval:
    """Weighted mean of values that cross S seeds with I items, with its pigeonhole bootstrap interval (Owen 2007).

    Seeds and items are resampled apart, because every seed answers the same items. One seed gives the variation between
    items alone.
    """
    values_SI, weights_I = np.asarray(values_SI, dtype=np.float64), np.asarray(weights_I, dtype=np.float64)
    num_seeds, num_items = values_SI.shape
    if num_seeds == 0 or num_items == 0 or weights_I.shape != (num_items,) or not np.isfinite(values_SI).all():
        raise DataError(f"an interval needs finite values and a weight for each item, found shape {values_SI.shape}")
    rng = np.random.default_rng(seed)
    shares_I = weights_I / weights_I.sum()
    seeds_DS = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_draws) / num_seeds
    items_DI = rng.multinomial(num_items, np.full(num_items, 1 / num_items), size=num_draws) * shares_I
    items_DI = items_DI / items_DI.sum(axis=1, keepdims=True)
    draws_D = np.einsum("ds,si,di->d", seeds_DS, values_SI, items_DI, optimize=True)
    low, high = np.quantile(draws_D, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values_SI.mean(axis=0) @ shares_I), float(low), float(high))


def stratified_mean(strata: Sequence[np.ndarray]) -> float:
    """Mean of the strata's means, each stratum with the same weight."""
    return float(np.mean([values_B.mean() for values_B in strata]))


def sign_flip_p(strata: Sequence[np.ndarray], *, num_draws: int = 2**16, seed: int = 0) -> float:
    """One-sided p-value of a stratified mean above zero, were every block as likely to have the other sign.

    All sign patterns where there are at most `num_draws`, otherwise as many random ones, the observed one among them
    (Phipson and Smyth 2010). DataError where a stratum is empty or a value is not finite.
    """
    if not strata or any(values_B.size == 0 or not np.isfinite(values_B).all() for values_B in strata):
        raise DataError("a sign-flip test needs at least one finite difference in every stratum")
    shares_B = np.concatenate([values_B / (values_B.size * len(strata)) for values_B in strata])
    observed = shares_B.sum()
    if 2**shares_B.size <= num_draws:
        patterns_DB = (np.arange(2**shares_B.size)[:, None] >> np.arange(shares_B.size)) & 1
        return float((_flipped(patterns_DB, shares_B) >= observed - 1e-12 * np.abs(shares_B).sum()).mean())
    rng = np.random.default_rng(seed)
    patterns_DB = rng.integers(2, size=(num_draws - 1, shares_B.size))
    num_as_large = int((_flipped(patterns_DB, shares_B) >= observed - 1e-12 * np.abs(shares_B).sum()).sum())
    return (num_as_large + 1) / num_draws


def _flipped(patterns_DB: np.ndarray, shares_B: np.ndarray) -> np.ndarray:
    return (1 - 2 * patterns_DB) @ shares_B


def stratified_interval(
    strata: Sequence[np.ndarray], *, level: float = 0.95, num_draws: int = 2000, seed: int = 0
) -> Interval:
    """The stratified mean with its percentile bootstrap interval; blocks are drawn within their stratum."""
    rng = np.random.default_rng(seed)
    draws_TD = [v[rng.integers(v.size, size=(num_draws, v.size))].mean(axis=1) for v in strata]
    low, high = np.quantile(np.mean(draws_TD, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return Interval(stratified_mean(strata), float(low), float(high))


def place_at_level(levels: Sequence[float], level: float) -> tuple[int, float] | None:
    """Where a curve first reaches `level`: the index of the point before it and the share of the way to the next one.

    None if it never does; (0, 0.0) if it begins there.
    """
    for i, reached in enumerate(levels):
        if reached >= level:
            return (0, 0.0) if i == 0 else (i - 1, (level - levels[i - 1]) / (reached - levels[i - 1]))
    return None


def interpolate_at_level(levels: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """Value where a curve first reaches `level`, linear between its points; None if it never does.

    `levels` (what was learned) and `values` (what was kept) are of the same length, in the order of training.
    """
    if len(levels) != len(values):
        raise ValueError(f"a curve needs as many levels as values, found {len(levels)} and {len(values)}")
    place = place_at_level(levels, level)
    if place is None:
        return None
    before, share = place
    if share == 0:
        return float(values[before])
    return float(values[before] + share * (values[before + 1] - values[before]))
