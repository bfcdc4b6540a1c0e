"""Retention measures against numbers worked by hand."""

import pytest

from textanchor.errors import DataError
from textanchor.evaluation.results.retention import (
    CurvePoint,
    backward_transfer,
    changes,
    forgetting,
    format_loss,
    harmonic_mean,
    item_values,
    matched_learning,
    mean_forgetting,
    transfer,
)
from textanchor.records import Score


def rows(suite: str, version: str = "1", **metrics: list[float]) -> list[Score]:
    """Items are numbered in the order of the values."""
    return [
        Score(suite=suite, version=version, item_id=f"item {i}", metric=metric, value=value)
        for metric, values in metrics.items()
        for i, value in enumerate(values)
    ]


def test_forgetting_is_positive_where_it_became_worse_in_the_unit_of_the_measure() -> None:
    before = rows("color", correct=[1, 1, 1, 0], gold_nats=[0.5, 0.5, 1.0, 2.0])
    after = rows("color", correct=[1, 0, 0, 0], gold_nats=[0.5, 1.0, 2.0, 2.5])
    lost = forgetting(before, after, "color")
    assert lost["accuracy"].estimate == pytest.approx(0.5)
    assert lost["gold_nats"].estimate == pytest.approx(0.5)
    changed = changes(before, after, "color")
    assert changed["accuracy"].estimate == pytest.approx(-0.5)
    assert changed["gold_nats"].estimate == pytest.approx(0.5)
    assert lost["accuracy"].low <= 0.5 <= lost["accuracy"].high
    gained = forgetting(after, before, "color")
    assert (gained["accuracy"].estimate, gained["gold_nats"].estimate) == (-0.5, -0.5)


def test_text_is_measured_per_token_not_per_text() -> None:
    before = rows("text", nats=[10.0, 30.0], num_tokens=[10.0, 10.0])
    after = rows("text", nats=[20.0, 30.0], num_tokens=[10.0, 10.0])
    assert forgetting(before, after, "text")["text_nats"].estimate == pytest.approx(0.5)
    uneven = rows("text", nats=[10.0, 90.0], num_tokens=[10.0, 30.0])
    assert sum(item_values(uneven, "text")["text_nats"].values()) / 2 == pytest.approx(100 / 40)


def test_captions_count_once_however_many_objects_they_invent() -> None:
    before = rows("chair", num_hallucinated=[0.0, 0.0, 3.0, 0.0])
    after = rows("chair", num_hallucinated=[1.0, 0.0, 5.0, 2.0])
    assert forgetting(before, after, "chair")["chair_s"].estimate == pytest.approx(0.5)


def test_transfer_gives_each_suite_the_same_weight() -> None:
    before = rows("a", correct=[1, 1, 1, 1]) + rows("b", correct=[0, 0])
    after = rows("a", correct=[0, 0, 1, 1]) + rows("b", correct=[1, 0])
    assert transfer(before, after, ["a", "b"], "accuracy").estimate == pytest.approx((-0.5 + 0.5) / 2)
    assert transfer(before, after, ["a"], "accuracy").estimate == pytest.approx(-0.5)
    assert mean_forgetting(before, after, ["a"], "accuracy").estimate == pytest.approx(0.5)


def test_bwt_compares_each_task_with_the_run_that_followed_it() -> None:
    """a[1,1] = 1, a[2,2] = .75; a[3,1] = .5, a[3,2] = .25: BWT = ((.5 - 1) + (.25 - .75)) / 2 = -.5."""
    runs = [
        rows("one", correct=[1, 1, 1, 1]) + rows("two", correct=[0, 0, 0, 0]) + rows("three", correct=[0, 0]),
        rows("one", correct=[0, 0, 0, 0]) + rows("two", correct=[1, 1, 1, 0]) + rows("three", correct=[0, 0]),
        rows("one", correct=[1, 1, 0, 0]) + rows("two", correct=[1, 0, 0, 0]) + rows("three", correct=[1, 1]),
    ]
    assert backward_transfer(runs, ["one", "two", "three"], "accuracy").estimate == pytest.approx(-0.5)
    assert backward_transfer(runs[:2], ["one", "two"], "accuracy").estimate == pytest.approx(-1.0)
    for few in (runs[:1], runs):
        with pytest.raises(ValueError, match="BWT needs"):
            backward_transfer(few, ["one", "two"][: len(few)], "accuracy")


def test_harmonic_mean() -> None:
    assert harmonic_mean(0.6, 0.3) == pytest.approx(0.4)
    assert harmonic_mean(0.5, 0.5) == 0.5
    assert harmonic_mean(0.0, 0.9) == 0.0
    assert harmonic_mean(0.0, 0.0) == 0.0


def test_format_loss_is_what_strict_reading_loses_beyond_lenient_reading() -> None:
    """Strict falls from 1 to .25, lenient from 1 to .75: .75 lost in all, .25 for real, .5 in format."""
    before = rows("gsm8k", correct=[1, 1, 1, 1], strict_correct=[1, 1, 1, 1])
    after = rows("gsm8k", correct=[1, 1, 1, 0], strict_correct=[1, 0, 0, 0])
    lost = format_loss(before, after, "gsm8k")
    assert lost is not None
    assert (lost.total.estimate, lost.real.estimate, lost.format.estimate) == (0.75, 0.25, 0.5)
    assert format_loss(rows("color", correct=[1]), rows("color", correct=[0]), "color") is None


def test_a_format_that_changed_alone_is_no_real_loss() -> None:
    before = rows("gsm8k", correct=[1, 0], strict_correct=[1, 0])
    lost = format_loss(before, rows("gsm8k", correct=[1, 0], strict_correct=[0, 0]), "gsm8k")
    assert lost is not None
    assert (lost.total.estimate, lost.real.estimate, lost.format.estimate) == (0.5, 0.0, 0.5)


def test_runs_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(DataError, match="only one of the two runs"):
        forgetting(rows("color", correct=[1, 1]), rows("color", correct=[1]), "color")
    with pytest.raises(DataError, match="versions 1 and 2"):
        forgetting(rows("color", correct=[1]), rows("color", "2", correct=[1]), "color")
    with pytest.raises(DataError, match="twice"):
        forgetting(rows("color", correct=[1]) * 2, rows("color", correct=[1]), "color")
    with pytest.raises(DataError, match="no 'accuracy'"):
        transfer(rows("caption", gold_nats=[1.0]), rows("caption", gold_nats=[1.0]), ["caption"], "accuracy")


def points(*pairs: tuple[float, float]) -> list[CurvePoint]:
    return [CurvePoint(learned, {"accuracy": kept, "text": None}) for learned, kept in pairs]


def test_matched_learning_interpolates_at_what_all_have_learned() -> None:
    found = matched_learning({"a": points((0.1, 0.9), (0.5, 0.7), (0.9, 0.5)), "b": points((0.1, 0.9), (0.7, 0.8))})
    assert found.level == 0.7
    assert found.kept["a"] == {"accuracy": pytest.approx(0.6), "text": None}
    assert found.kept["b"] == {"accuracy": 0.8, "text": None}


def test_matched_learning_never_extrapolates() -> None:
    found = matched_learning({"learns": points((0.1, 0.9), (0.9, 0.5)), "never": points((0.1, 0.9), (0.05, 0.8))})
    assert found.level is None
    assert found.reached == {"learns": True, "never": False}
    assert found.kept == {"learns": None, "never": None}
