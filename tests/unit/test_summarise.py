"""From rows to a summary, against sums worked by hand."""

import numpy as np
import pytest

from textanchor.errors import DataError
from textanchor.evaluation.results.summary import change, mean_change, mean_over_tasks, summarise
from textanchor.evaluation.results.values import values_of
from textanchor.records import Score


def rows(suite: str, version: str = "1", **metrics: dict[str, float]) -> list[Score]:
    return [
        Score(suite=suite, version=version, item_id=item, metric=metric, value=value)
        for metric, values in metrics.items()
        for item, value in values.items()
    ]


def task(suite: str, correct: dict[str, float], nats: dict[str, float], version: str = "1") -> list[Score]:
    flat = dict.fromkeys(correct, 0.5)
    return rows(
        suite,
        version,
        gold_nats=nats,
        choice_nats=flat,
        correct=correct,
        correct_normalised=correct,
        majority_correct=flat,
    )


def test_a_task() -> None:
    scores = task("color", {"a": 1, "b": 0, "c": 1, "d": 1}, {"a": 0.1, "b": 2.0, "c": 0.3, "d": 0.0})
    color = summarise(scores)["tasks"]["color"]
    assert color["accuracy"]["estimate"] == pytest.approx(0.75)
    assert color["accuracy"]["low"] < 0.75 < color["accuracy"]["high"]
    assert color["gold_nats"]["estimate"] == pytest.approx(0.6)
    assert (color["num_items"], color["majority"], color["blind"]) == (4, 0.5, None)
    scores += rows("color", blind_correct={"a": 1, "b": 0, "c": 0, "d": 0})
    assert summarise(scores)["tasks"]["color"]["blind"] == pytest.approx(0.25)


def test_an_open_task_has_no_accuracy() -> None:
    caption = summarise(rows("caption", gold_nats={"a": 3.0}))["tasks"]["caption"]
    assert "accuracy" not in caption
    assert caption["gold_nats"]["estimate"] == 3.0


def test_pope_by_strategy() -> None:
    gold = {"random/1": 1.0, "random/2": 0.0, "popular/1": 1.0, "popular/2": 0.0}
    said = {"random/1": 1.0, "random/2": 0.0, "popular/1": 1.0, "popular/2": 1.0}
    correct = {item: float(gold[item] == said[item]) for item in gold}
    scores = rows("pope_scenes", is_yes=gold, said_yes=said, parsed=dict.fromkeys(gold, 1.0), correct=correct)
    scores += rows("pope_scenes", blind_correct=dict.fromkeys(gold, 0.0) | {"random/1": 1.0})
    pope = summarise(scores)["pope"]
    assert pope["accuracy"]["estimate"] == pytest.approx(3 / 4)
    assert pope["precision"] == pytest.approx(2 / 3)
    assert pope["recall"] == 1.0
    assert pope["yes_ratio"] == pytest.approx(3 / 4)
    assert pope["blind_accuracy"] == pytest.approx(1 / 4)
    assert pope["strategies"]["random"]["accuracy"]["estimate"] == 1.0
    assert pope["strategies"]["popular"]["precision"] == pytest.approx(1 / 2)
    assert pope["strategies"]["popular"]["num_items"] == 2


def test_chair() -> None:
    counts = {"a": (3, 1, 2, 2, 10), "b": (1, 0, 2, 1, 6)}
    fields = ("num_mentions", "num_hallucinated", "num_objects", "num_recalled", "num_words")
    metrics = {field: {item: float(row[i]) for item, row in counts.items()} for i, field in enumerate(fields)}
    chair = summarise(rows("chair_scenes", **metrics))["chair"]
    assert chair["chair_i"] == pytest.approx(1 / 4)
    assert chair["chair_s"]["estimate"] == pytest.approx(1 / 2)
    assert chair["recall"] == pytest.approx(3 / 4)
    assert chair["mean_length"]["estimate"] == pytest.approx(8)


@pytest.mark.parametrize(
    ("kind", "metrics"),
    [
        ("pope", {"is_yes": 1.0, "said_yes": 1.0, "parsed": 1.0, "correct": 1.0}),
        ("text", {"num_tokens": 3.0, "nats": 2.0}),
        (
            "chair",
            dict.fromkeys(("num_mentions", "num_hallucinated", "num_objects", "num_recalled", "num_words"), 1.0),
        ),
    ],
)
def test_two_suites_of_a_kind_that_is_told_once_are_refused(kind: str, metrics: dict[str, float]) -> None:
    first, second = (rows(name, **{m: {"random/1": v} for m, v in metrics.items()}) for name in ("one", "two"))
    assert kind in summarise(first)
    with pytest.raises(DataError, match=f"suite 'two' is a second one of {kind}.*summarise them apart"):
        summarise(first + second)


def test_text_is_per_token_not_per_text() -> None:
    scores = rows("text", num_tokens={"a": 10.0, "b": 30.0}, nats={"a": 40.0, "b": 60.0}, base_kl={"a": 0.0, "b": 4.0})
    text = summarise(scores)["text"]
    assert text["cross_entropy"]["estimate"] == pytest.approx(100 / 40)
    assert text["kl_to_base"]["estimate"] == pytest.approx(4 / 40)
    assert text["num_tokens"] == 40


def test_texts_of_one_rate_have_no_spread_whatever_their_length() -> None:
    scores = rows("text", num_tokens={"a": 10.0, "b": 300.0}, nats={"a": 20.0, "b": 600.0})
    cross_entropy = summarise(scores)["text"]["cross_entropy"]
    assert cross_entropy["low"] == pytest.approx(2.0)
    assert cross_entropy["high"] == pytest.approx(2.0)


def test_mean_over_tasks_weighs_tasks_not_items() -> None:
    scores = task("color", {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}) + task("count", {"a": 0}, {"a": 3})
    assert mean_over_tasks(scores, ["color", "count"], "correct").estimate == pytest.approx(0.5)
    assert mean_over_tasks(scores, ["color", "count"], "gold_nats").estimate == pytest.approx(2.0)


def test_changes_are_paired_by_item() -> None:
    rng = np.random.default_rng(0)
    nats = {str(i): float(value) for i, value in enumerate(rng.gamma(1.0, 3.0, size=50))}
    before = task("color", dict.fromkeys(nats, 1.0), nats)
    after = task("color", dict.fromkeys(nats, 1.0), {item: value + 0.1 for item, value in reversed(nats.items())})
    interval = change(before, after, "color", "gold_nats")
    assert interval.low == pytest.approx(0.1)
    assert interval.high == pytest.approx(0.1)
    assert mean_change(before, after, ["color"], "gold_nats").estimate == pytest.approx(0.1)


def test_other_items_or_versions_are_not_compared() -> None:
    before = task("color", {"a": 1}, {"a": 1})
    with pytest.raises(DataError, match="'b'"):
        change(before, task("color", {"a": 1, "b": 1}, {"a": 1, "b": 1}), "color", "correct")
    with pytest.raises(DataError, match="versions 1 and 2"):
        change(before, task("color", {"a": 1}, {"a": 1}, version="2"), "color", "correct")


def test_missing_and_doubled_rows_are_named() -> None:
    scores = task("color", {"a": 1}, {"a": 1})
    with pytest.raises(DataError, match="shape"):
        values_of(scores, "shape", "correct")
    with pytest.raises(DataError, match="'a'"):
        values_of(scores + scores, "color", "correct")
