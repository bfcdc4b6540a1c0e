"""What records say, on hand-made curves whose answers are known."""

import numpy as np
import pytest

from helpers.comparison_records import entry, record
from textanchor.errors import DataError
from textanchor.experiment.columns import pack_flags, pack_numbers, unpack_flags, unpack_numbers
from textanchor.experiment.reading.headroom import headroom
from textanchor.experiment.reading.matched import (
    chosen_at,
    difference_at,
    forgetting_at,
    fronts,
    matched,
    reference_of,
)
from textanchor.experiment.reading.runs import Curve, curves_of
from textanchor.experiment.reading.summary import summarise_runs
from textanchor.records import RunRecord
from textanchor.report.compare import compare_tables, render_compare
from textanchor.stats import crossed_interval

STEEP = [(4.0, 0.0), (3.0, 0.1), (2.0, 0.4), (0.0, 2.0)]
"""Learning 0, .25, .5, 1 and forgetting 0, .1, .4, 2."""
FLAT = [(4.0, 0.0), (3.0, 0.05), (2.0, 0.1), (1.0, 0.2)]
"""Learning 0, .25, .5, .75 and forgetting a quarter of the former or less."""


def curves(*records: RunRecord) -> list[Curve]:
    return curves_of(records)


def test_columns_come_back() -> None:
    assert unpack_numbers(pack_numbers([0.1234, 12.0])) == [0.123, 12.0]
    assert unpack_flags(pack_flags([1.0, 0.0, 1.0])) == [1.0, 0.0, 1.0]


def test_learning_is_the_share_of_the_largest_gain() -> None:
    found = curves(record("plain", STEEP), record("app", FLAT))
    reference = reference_of(found)
    assert reference is not None
    assert reference.gain == {"validation": 4.0, "test": 4.0}
    assert reference.configuration.arm == "plain"
    app = next(curve for curve in found if curve.configuration.arm == "app")
    np.testing.assert_allclose(reference.learned(app, "test"), [0, 0.25, 0.5, 0.75])


def test_matched_learning_is_at_the_most_that_all_reach() -> None:
    found = curves(record("plain", STEEP), record("app", FLAT))
    reference = reference_of(found)
    assert reference is not None
    result = matched(found, reference)
    assert result["level"] == pytest.approx(0.75)
    values = {row["arm"]: row["forgetting"]["estimate"] for row in result["rows"]}
    assert values == pytest.approx({"app": 0.2, "plain": 0.4 + 0.5 * 1.6})
    (pair,) = result["pairs"]
    assert (pair["first"], pair["second"]) == ("app", "plain")
    assert pair["estimate"] == pytest.approx(0.2 - 1.2)
    assert pair["high"] < 0


def test_two_arms_are_read_where_both_reach_whatever_a_third_learns() -> None:
    slow = [(new, old) for new, old in FLAT[:2]]
    slow = [*slow, *[slow[-1]] * (len(FLAT) - len(slow))]
    found = curves(record("plain", STEEP), record("app", FLAT), record("slow", slow))
    reference = reference_of(found)
    assert reference is not None
    result = matched(found, reference)
    assert result["level"] == pytest.approx(0.25)
    levels = {(pair["first"], pair["second"]): pair["level"] for pair in result["pairs"]}
    assert levels == pytest.approx({("app", "plain"): 0.75, ("app", "slow"): 0.25, ("plain", "slow"): 0.25})
    alone = matched(curves(record("plain", STEEP), record("app", FLAT)), reference)["pairs"][0]
    assert next(pair for pair in result["pairs"] if "slow" not in pair.values()) == alone


def test_the_front_averages_only_what_all_reach_and_extrapolates_nothing() -> None:
    found = curves(record("plain", STEEP), record("app", FLAT))
    reference = reference_of(found)
    assert reference is not None
    result = fronts(found, reference)
    assert result["common"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75]
    rows = {row["arm"]: row for row in result["rows"]}
    assert rows["app"]["reached_to"] == 0.75
    assert rows["plain"]["reached_to"] == 0.95
    assert [value is None for value in rows["app"]["values"]] == [False] * 6 + [True] * 4
    assert rows["app"]["mean"] == pytest.approx(np.mean([0.1 + 0.4 * (level - 0.5) for level in result["common"]]))
    assert rows["plain"]["mean"] == pytest.approx(np.mean([0.4 + 3.2 * (level - 0.5) for level in result["common"]]))


def test_configurations_are_chosen_on_validation_and_scored_on_test_items() -> None:
    """The one that is better on validation items is worse on the test items, and is chosen all the same."""
    lucky = record("app", FLAT, strength="lucky", shift=1.0)
    honest = record("app", [(new, 1.5 * old) for new, old in FLAT], strength="honest")
    found = curves(lucky, honest, record("plain", STEEP))
    reference = reference_of(found)
    assert reference is not None
    own = [curve for curve in found if curve.configuration.arm == "app"]
    chosen = chosen_at(own, reference, 0.5)
    assert chosen is not None
    assert chosen.configuration.strength == "lucky"
    forgotten = forgetting_at(chosen, reference, 0.5)
    assert forgotten is not None
    assert forgotten.estimate == pytest.approx(1.1)


def test_differences_are_paired_by_seed_and_item() -> None:
    """Seeds differ wildly, both arms alike: the difference is sharp although each arm's own interval is wide."""
    noisy = [(new, old) for new, old in STEEP]
    records = []
    for seed, extra in enumerate((0.0, 1.0, 2.0)):
        records.append(record("a", [(n, o + extra * (n < 4)) for n, o in noisy], seed=seed))
        records.append(record("b", [(n, o + 0.1 * (n < 4) + extra * (n < 4)) for n, o in noisy], seed=seed))
    first, second = curves(*records)
    reference = reference_of([first, second])
    assert reference is not None
    found = difference_at(first, second, reference, 0.5)
    assert found is not None
    interval, num_seeds = found
    assert num_seeds == 3
    assert (interval.low, interval.high) == pytest.approx((-0.1, -0.1))
    alone = forgetting_at(first, reference, 0.5)
    assert alone is not None
    assert alone.high - alone.low > 0.5


def test_interpolated_weights_are_an_arm_of_their_own() -> None:
    between = [{"alpha": 0.5, **entry(2.0, 0.2)}]
    step, alpha = curves(record("plain", STEEP, wise_ft=between))
    assert alpha.configuration.arm == "plain+wise_ft"
    assert alpha.places == (0.0, 0.5, 1.0)
    np.testing.assert_allclose(alpha.mean_lost("test"), [0, 0.2, 2.0])
    assert step.places == (0.0, 1.0, 2.0, 4.0)


def test_records_that_do_not_belong_together_are_refused() -> None:
    other = record("app", FLAT)
    other.hashes["code"] = "other"
    with pytest.raises(DataError, match="differ in code"):
        curves(record("plain", STEEP), other)
    with pytest.raises(DataError, match="two records"):
        curves(record("plain", STEEP), record("plain", STEEP))


def test_headroom_tells_what_is_lost_and_what_of_it_is_format() -> None:
    free = {
        "before": {task: {"strict": "1111", "lenient": "1111"} for task in ("color", "count")},
        "after": {task: {"strict": "0000", "lenient": "1110"} for task in ("color", "count")},
    }
    (row,) = headroom(curves(record("plain", STEEP, free=free)))
    # 90 % of its own gain of 4 is 3.6 nats, which lies 80 % of the way from step 2 (gain 2) to step 4 (gain 4)
    assert row["forgetting"]["estimate"] == pytest.approx(0.4 + 0.8 * 1.6)
    assert row["step"] == pytest.approx(2 + 0.8 * 2)
    assert row["format"] == {"strict": 1.0, "lenient": 0.25, "of_format": 0.75}
    assert row["verdict"] == "format"
    (row,) = headroom(curves(record("plain", FLAT)))
    assert row["verdict"] == "no"
    (row,) = headroom(curves(record("plain", STEEP)))
    assert row["verdict"] == "format unknown"


def test_nothing_learned_is_said() -> None:
    summary = summarise_runs("none", [record("plain", [(4.0, 0.0), (4.5, 0.3)])])
    assert summary["tasks"]["digits"]["matched"] is None
    assert "no arms are compared" in render_compare(summary)


def test_the_page_says_what_was_not_reached_and_who_tried_more() -> None:
    records = [record("plain", STEEP), record("app", FLAT, strength="a"), record("app", FLAT, strength="b")]
    summary = summarise_runs("some", records)
    page = render_compare(summary)
    assert "unequal numbers of configurations" in page
    assert "Not every level was reached by: app" in page
    assert {table.title.partition(": ")[2] for table in compare_tables(summary)} >= {
        "arms at equal learning",
        "retention over learning",
        "headroom",
    }


def test_tasks_keep_equal_weight_however_many_items_they_have() -> None:
    values_SI = np.array([[1.0, 1.0, 1.0, 0.0]])
    interval = crossed_interval(values_SI, np.array([1 / 6, 1 / 6, 1 / 6, 1 / 2]))
    assert interval.estimate == pytest.approx(0.5)


def test_more_seeds_that_agree_do_not_hide_seeds_that_differ() -> None:
    """With items that are all alike, the interval is that of the mean of the seeds."""
    rng = np.random.default_rng(0)
    seeds_S = rng.normal(size=20)
    interval = crossed_interval(np.repeat(seeds_S[:, None], 50, axis=1), np.full(50, 1 / 50))
    half = 1.96 * seeds_S.std() / np.sqrt(20)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.15)
    with pytest.raises(DataError, match="finite"):
        crossed_interval(np.full((2, 2), np.nan), np.ones(2))


def test_learning_the_words_of_answers_counts_for_nothing() -> None:
    """Gold nats fall from the first step on; among the choices the answers beat a guess (1 nat) at the last two."""
    run = record("plain", [(9.0, 0.1), (3.0, 0.1), (2.0, 0.1), (1.0, 0.1)])
    for point, choice in zip(run.extra["curve"], (2.0, 1.5, 0.75, 0.5), strict=True):
        point["tasks"]["digits"]["choice_nats"] = pack_numbers([choice, choice])
    run.extra["guess_nats"] = {"digits": {"validation": 1.0, "test": 1.1}}
    (curve,) = curves_of([run])
    assert curve.gain("validation") == pytest.approx([0, 0, 0.25, 0.5])
    assert curve.gain("test") == pytest.approx([0, 0, 0.35, 0.6])
    assert curve.of_seeds([0]).gain("test") == pytest.approx([0, 0, 0.35, 0.6])


def test_what_was_known_before_is_not_learned() -> None:
    run = record("plain", [(9.0, 0.1), (3.0, 0.1)])
    for point, choice in zip(run.extra["curve"], (0.6, 0.2), strict=True):
        point["tasks"]["digits"]["choice_nats"] = pack_numbers([choice, choice])
    run.extra["guess_nats"] = {"digits": {"validation": 1.0, "test": 1.0}}
    assert curves_of([run])[0].gain("test") == pytest.approx([0, 0.4])
