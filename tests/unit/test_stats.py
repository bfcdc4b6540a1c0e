import numpy as np
import pytest
from scipy.stats import binomtest

from textanchor.errors import DataError
from textanchor.stats import (
    Interval,
    bootstrap_interval,
    interpolate_at_level,
    mean_over_groups,
    paired_difference,
    wilson_interval,
)


def test_interval_of_equal_values_has_no_width() -> None:
    assert bootstrap_interval([2.0, 2.0, 2.0]) == Interval(2.0, 2.0, 2.0)


def test_interval_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    interval = bootstrap_interval(values, num_draws=4000)
    half_width = 1.96 * values.std() / np.sqrt(values.size)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.05 * half_width)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.05 * half_width)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    intervals = [bootstrap_interval(rng.normal(size=50), level=0.8, num_draws=200, seed=i) for i in range(400)]
    covered = sum(interval.low <= 0 <= interval.high for interval in intervals) / len(intervals)
    assert 0.74 <= covered <= 0.85  # .8, less a little for the small sample; standard error .02


def test_interval_depends_on_the_seed_only() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    many = np.arange(31.0)
    assert bootstrap_interval(many, seed=1) != bootstrap_interval(many, seed=2)


def test_wider_level_is_wider() -> None:
    values = np.arange(20.0)
    narrow, wide = bootstrap_interval(values, level=0.5), bootstrap_interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0], [2.0]]])
def test_interval_refuses_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(DataError):
        bootstrap_interval(values)


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_interval_refuses_levels_outside(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([1.0], level=level)


def test_difference_pairs_by_id_and_not_by_order() -> None:
    rng = np.random.default_rng(3)
    before = {str(i): float(value) for i, value in enumerate(rng.normal(0, 100, size=50))}
    after = {item_id: before[item_id] + 1.0 for item_id in reversed(before)}
    interval = paired_difference(before, after)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((1.0, 1.0, 1.0))


def test_difference_refuses_unmatched_ids() -> None:
    with pytest.raises(DataError, match=r"2 of 3 item ids are in only one of the two runs \(first: 'b'\)"):
        paired_difference({"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0})


def test_interpolation_is_linear_at_the_first_crossing() -> None:
    levels, values = [0.1, 0.3, 0.7, 0.5, 0.9], [1.0, 0.9, 0.5, 0.4, 0.1]
    assert interpolate_at_level(levels, values, 0.5) == pytest.approx(0.7)
    assert interpolate_at_level(levels, values, 0.7) == pytest.approx(0.5)
    assert interpolate_at_level(levels, values, 0.8) == pytest.approx(0.4 + 0.75 * -0.3)


def test_interpolation_at_the_ends() -> None:
    assert interpolate_at_level([0.5, 0.9], [1.0, 0.0], 0.2) == 1.0
    assert interpolate_at_level([0.5, 0.9], [1.0, 0.0], 0.95) is None
    assert interpolate_at_level([], [], 0.95) is None
    with pytest.raises(ValueError, match="as many"):
        interpolate_at_level([0.5], [1.0, 0.0], 0.5)


@pytest.mark.parametrize(("right", "items"), [(0, 100), (100, 100), (3, 7), (25, 100)])
def test_wilson_interval_agrees_with_scipy(right: int, items: int) -> None:
    expected = binomtest(right, items).proportion_ci(method="wilson")
    found = wilson_interval(right, items)
    assert (found.estimate, found.low, found.high) == pytest.approx((right / items, expected.low, expected.high))


def test_wilson_interval_needs_items() -> None:
    with pytest.raises(DataError, match="at least one item"):
        wilson_interval(0, 0)


def test_groups_have_the_same_weight_whatever_their_size() -> None:
    assert mean_over_groups([{"a": 1.0, "b": 1.0, "c": 1.0}, {"d": 0.0}]).estimate == pytest.approx(0.5)
