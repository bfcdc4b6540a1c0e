"""The confirmatory test: its p-values, what counts as a block, and what it says of curves whose answer is known."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test

from helpers.comparison_records import record
from textanchor.errors import DataError
from textanchor.experiment.reading.confirm import Blocks, blocks_of, confirmation, contrasts, power
from textanchor.experiment.reading.runs import Curve, curves_of
from textanchor.stats import sign_flip_p, stratified_interval


def test_sign_flips_agree_with_scipy() -> None:
    values = np.random.default_rng(0).normal(0.4, 1.0, size=9)
    theirs = permutation_test((values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=10**6)
    assert sign_flip_p([values]) == pytest.approx(theirs.pvalue)


def test_sign_flips_by_hand_with_strata_of_unequal_size() -> None:
    strata = [np.array([1.0, 2.0]), np.array([3.0])]
    flipped = [((a + 2 * b) / 2 + 3 * c) / 2 for a, b, c in product((1, -1), repeat=3)]
    assert sign_flip_p(strata) == sum(value >= flipped[0] for value in flipped) / 8
    assert sign_flip_p([np.array([-1.0, 2.0]), np.array([-3.0])]) == 6 / 8


def test_random_sign_flips_are_near_the_exact_ones_and_never_zero() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, size=14)
    assert sign_flip_p([values], num_draws=2**13) == pytest.approx(sign_flip_p([values]), abs=0.02)
    assert sign_flip_p([np.ones(30)], num_draws=100) == 0.01


def test_sign_flips_keep_their_level_without_an_effect() -> None:
    rng = np.random.default_rng(2)
    rejected = [sign_flip_p([rng.normal(size=4), 5 * rng.normal(size=4)]) <= 0.05 for _ in range(1000)]
    assert np.mean(rejected) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("strata", [[], [np.array([])], [np.array([1.0, np.nan])]])
def test_sign_flips_refuse_what_is_no_difference(strata: list[np.ndarray]) -> None:
    with pytest.raises(DataError):
        sign_flip_p(strata)


def test_a_stratum_counts_the_same_however_many_blocks_it_has() -> None:
    interval = stratified_interval([np.full(2, 1.0), np.full(10, 3.0)])
    assert (interval.estimate, interval.low, interval.high) == (2.0, 2.0, 2.0)


def blocks(task: str, **values: list[float]) -> Blocks:
    return Blocks(task, (0.5,), tuple(range(len(values["app"]))), {arm: np.array(v) for arm, v in values.items()})


EIGHT = [0.30, 0.32, 0.28, 0.31, 0.29, 0.33, 0.27, 0.30]


def test_all_controls_have_to_be_beaten() -> None:
    app = [value - 0.2 for value in EIGHT]
    found = confirmation([blocks("a", app=app, l2sp=EIGHT, wise=[v + 0.01 for v in app])], "app", ["l2sp", "wise"])
    assert [row["verdict"] for row in found["contrasts"]] == ["better", "equivalent"]
    assert not found["beats_all"]
    assert found["p"] == max(row["p"] for row in found["contrasts"])
    assert confirmation([blocks("a", app=app, l2sp=EIGHT)], "app", ["l2sp"])["beats_all"]


def test_the_other_way_round_and_the_noise() -> None:
    noisy = [value + shift for value, shift in zip(EIGHT, [0.5, -0.5] * 4, strict=True)]
    found = contrasts([blocks("a", app=EIGHT, plain=[v - 0.2 for v in EIGHT], noisy=noisy)], "app", ["plain", "noisy"])
    assert [contrast.verdict for contrast in found] == ["worse", "undecided"]
    assert found[0].difference.estimate == pytest.approx(-0.2)


def test_power_rises_with_effect_and_seeds_and_falls_with_controls() -> None:
    assert power([0.1, 0.1], 0.0, num_seeds=8) == pytest.approx(0.05, abs=0.04)
    some = power([0.1, 0.1], 0.05, num_seeds=8)
    assert power([0.1, 0.1], 0.05, num_seeds=3) < some < power([0.1, 0.1], 0.1, num_seeds=8)
    assert power([0.1, 0.1], 0.05, num_seeds=8, num_controls=4) < some


def two_arms(app: float, seeds: tuple[int, ...] = (0, 1)) -> list[Curve]:
    plain = [record("plain", [(4.0, 0.1), (2.0, 0.5), (0.0, 0.9)], seed=seed, shift=0.1 * seed) for seed in (0, 1)]
    ours = [record("app", [(4.0, 0.1), (2.0, 0.1), (0.0, app)], seed=seed) for seed in seeds]
    return curves_of([*plain, *ours])


def test_a_block_is_the_mean_over_the_levels_that_all_arms_reach() -> None:
    found = blocks_of(two_arms(app=0.3), ["app", "plain"])
    assert found.levels[0] == 0.5
    assert found.levels[-1] == 0.95
    middle = np.mean(found.levels)
    assert found.values["app"] == pytest.approx([(middle - 0.5) / 0.5 * 0.2] * 2)
    assert found.values["plain"][0] == pytest.approx(0.4 + (middle - 0.5) / 0.5 * 0.4)
    assert found.values["plain"][1] == pytest.approx(found.values["plain"][0] + 0.1)


def test_levels_that_one_arm_does_not_reach_are_left_out() -> None:
    curves = curves_of(
        [
            record("plain", [(4.0, 0.1), (2.0, 0.5), (0.0, 0.9)]),
            record("app", [(4.0, 0.1), (2.0, 0.1), (1.5, 0.1)]),
        ]
    )
    assert blocks_of(curves, ["app", "plain"]).levels == (0.5, 0.55, 0.6)


def test_what_cannot_be_paired_is_named() -> None:
    with pytest.raises(DataError, match="no runs of arm 'l2sp'; there are app, plain"):
        blocks_of(two_arms(app=0.3), ["app", "l2sp"])
    with pytest.raises(DataError, match="different seeds"):
        blocks_of(two_arms(app=0.3, seeds=(0,)), ["app", "plain"])
    short = [record(arm, [(4.0, 0.1), (end, 0.2)]) for arm, end in (("plain", 0.0), ("app", 3.5))]
    with pytest.raises(DataError, match="no level of learning"):
        blocks_of(curves_of(short), ["app", "plain"])
