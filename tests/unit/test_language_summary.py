"""What is said of a language suite: at chance, above it, or nothing right."""

import pytest

from textanchor.evaluation.language.scores import choice_values, own_metrics
from textanchor.evaluation.results import language
from textanchor.evaluation.results.summary import summarise
from textanchor.records import Score


def choices(num_right: int, num_items: int) -> dict[str, dict[str, float]]:
    items = [str(i) for i in range(num_items)]
    return {
        "correct": {item: float(i < num_right) for i, item in enumerate(items)},
        "gold_nats": dict.fromkeys(items, 2.0),
        "chance": dict.fromkeys(items, 0.25),
        "majority_correct": {item: float(i % 4 == 0) for i, item in enumerate(items)},
    }


@pytest.mark.parametrize(
    ("num_right", "reading"), [(25, "at chance"), (30, "at chance"), (40, "above chance"), (5, "below chance")]
)
def test_accuracy_is_read_against_chance_within_its_interval(num_right: int, reading: str) -> None:
    summary = language.summarise(choices(num_right, 100))
    assert summary["reading"] == reading
    assert (summary["chance"], summary["majority"], summary["num_items"]) == (0.25, 0.25, 100)
    told = "\n".join(language.lines({"mmlu": summary}))
    assert ("Not better than guessing: mmlu" in told) == (reading != "above chance")


def test_nothing_right_has_an_interval_all_the_same() -> None:
    solved = dict.fromkeys("ab", 0.0)
    metrics = {"correct": solved, "strict_correct": solved}
    metrics |= {"gold_nats": {"a": 10.0, "b": 90.0}, "gold_tokens": {"a": 10.0, "b": 30.0}}
    summary = language.summarise(metrics)
    assert summary["reading"] == "none right"
    assert summary["accuracy"]["low"] == 0.0
    assert summary["accuracy"]["high"] > 0.5
    assert summary["gold_nats_per_token"]["estimate"] == pytest.approx(100 / 40)
    assert summary["num_gold_tokens"] == 40


def test_language_has_its_own_place_in_the_summary() -> None:
    rows = [
        Score(suite="mmlu", version="1", item_id=item, metric=metric, value=value)
        for metric, values in choices(3, 4).items()
        for item, value in values.items()
    ]
    summary = summarise(rows)
    assert summary["tasks"] == {}
    assert summary["language"]["mmlu"]["accuracy"]["estimate"] == 0.75


def test_values_of_a_choice() -> None:
    """Likelihoods 1/2, 1/4 and 1/8: the gold one's share of them is 2/7."""
    values = choice_values([-0.6931471805599453, -1.3862943611198906, -2.0794415416798357], ["a", "b", "c"], gold=1)
    assert values["gold_nats"][0] == pytest.approx(1.3862943611198906)
    assert values["choice_nats"][0] == pytest.approx(1.252762968495368)
    assert values["correct"] == (0.0, "a")
    assert values["chance"][0] == pytest.approx(1 / 3)


def test_lm_evals_metrics_get_our_names_and_tuples_are_left() -> None:
    strict = {"filter": "strict-match", "metrics": ["exact_match"], "exact_match": 0.0, "resps": [["the answer is 5"]]}
    flexible = {**strict, "filter": "flexible-extract", "exact_match": 1.0}
    assert own_metrics([strict, flexible]) == {"strict_correct": (0.0, None), "correct": (1.0, "the answer is 5")}
    scored = {"filter": "none", "metrics": ["acc", "acc_norm", "f1", "bleu"], "acc": 1.0, "acc_norm": 0.0}
    scored |= {"f1": (1, 0), "bleu": 3.5, "resps": [[(-1.0, False)]]}
    assert {name: value for name, (value, _) in own_metrics([scored]).items()} == {
        "correct": 1.0,
        "correct_normalised": 0.0,
        "bleu": 3.5,
    }
