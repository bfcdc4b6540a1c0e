"""Language suites from file to rows, and what they say when something is missing."""

import sys
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import torch
from lm_eval.tasks import TaskManager

from helpers.language_files import choice_rows, solution_rows, write_rows
from helpers.tiny_chat import tiny_chat_model
from textanchor.errors import ConfigError, DataError, TextanchorError
from textanchor.evaluation.language import harness
from textanchor.evaluation.results.values import values_of
from textanchor.evaluation.suite import EvaluationOptions, SuiteOptions, suite_hash
from textanchor.evaluation.suites.language import LanguageSuite, local_suites, standard_suites

CHOICE_METRICS = {"correct", "gold_nats", "choice_nats", "chance", "majority_correct"}


def suites_of(path: Path, num_items: int | None = None, seed: int = 0, **options: Any) -> list[LanguageSuite]:
    found = local_suites(path, num_items=num_items, seed=seed, options=SuiteOptions(**options))
    return [suite for suite in found if isinstance(suite, LanguageSuite)]


def standard_suite(task: str, num_items: int | None = None) -> LanguageSuite:
    (suite,) = standard_suites(Path(task), num_items=num_items, seed=0, options=SuiteOptions())
    assert isinstance(suite, LanguageSuite)
    return suite


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "arc_easy_test.jsonl", choice_rows(12))
    write_rows(tmp_path / "mmlu_test.jsonl", choice_rows(12, subject=True))
    write_rows(tmp_path / "gsm8k_test.jsonl", solution_rows(5))
    return tmp_path


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_chat_model("llava")


def test_rows_of_each_kind(folder: Path, model: Any) -> None:
    steps: list[int] = []
    for suite in suites_of(folder, num_items=4):
        rows = suite.score(*model, EvaluationOptions(advance=steps.append))
        metrics = {row.metric for row in rows}
        if suite.name == "gsm8k":
            assert metrics == {"correct", "strict_correct", "gold_nats", "gold_tokens"}
        else:
            assert metrics == CHOICE_METRICS | ({"correct_normalised"} if suite.name == "arc_easy" else set())
            assert set(values_of(rows, suite.name, "chance").values()) == {0.25}
        assert len(rows) == 4 * len(metrics)
        assert {row.suite for row in rows} == {suite.name}
        assert all(row.answer for row in rows if row.metric == "correct"), "what the model said is kept"
        assert sum(steps) == suite.num_steps == 4
        steps.clear()


def test_the_same_model_answers_the_same_and_is_given_back_as_it_was(folder: Path, model: Any) -> None:
    vlm, processor = model
    vlm.train()
    padding, state = processor.tokenizer.padding_side, torch.get_rng_state()
    suite = suites_of(folder / "arc_easy_test.jsonl", num_items=4)[0]
    again = suites_of(folder / "arc_easy_test.jsonl", num_items=4)[0]
    assert suite_hash(suite) == suite_hash(again)
    assert suite.score(*model, EvaluationOptions()) == again.score(*model, EvaluationOptions())
    assert vlm.training
    assert vlm.model.language_model.training
    assert processor.tokenizer.padding_side == padding
    assert torch.equal(torch.get_rng_state(), state)
    vlm.eval()


def test_what_decides_the_scores_decides_the_hash(folder: Path) -> None:
    file = folder / "arc_easy_test.jsonl"
    first = suites_of(file, num_items=4)[0]
    assert suite_hash(suites_of(file, num_items=5)[0]) != suite_hash(first)
    assert suite_hash(suites_of(file, num_items=4, seed=1)[0]) != suite_hash(first)
    rows = choice_rows(12)
    for row in rows:
        row["choices"][0] += "!"
    write_rows(file, rows)
    assert suite_hash(suites_of(file, num_items=4)[0]) != suite_hash(first)


def test_the_counts_say_what_is_asked(folder: Path) -> None:
    told = {suite.name: suite.counts() for suite in suites_of(folder)}
    assert told["arc_easy"] == f"arc_easy: 12 of 12 items, from {folder / 'arc_easy_test.jsonl'}"
    assert "5 of 5 generated answers and gold solutions" in told["gsm8k"]


def test_malformed_rows_are_refused_or_counted(folder: Path) -> None:
    rows = choice_rows(4)
    rows[2]["label"] = 9
    file = write_rows(folder / "arc_easy_test.jsonl", rows)
    with pytest.raises(DataError, match=r"1 malformed rows beside 3 sound ones.*line 3: expected `label`"):
        suites_of(file)
    (suite,) = suites_of(file, skip_malformed=True)
    assert "3 of 3 items" in suite.counts()
    assert "1 malformed rows left out" in suite.counts()


def test_without_lm_eval_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "textanchor.evaluation.language.harness")
    monkeypatch.setitem(sys.modules, "lm_eval.api.instance", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.task", None)
    with pytest.raises(TextanchorError, match=r"pip install 'textanchor\[language\]'"):
        suites_of(folder)


def test_standard_tasks_without_network_name_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    arc = Path(lm_eval.tasks.__file__).parent / "arc"  # the list of all tasks takes ten seconds to read
    monkeypatch.setattr(harness, "task_manager", lambda: TaskManager(include_path=arc, include_defaults=False))
    monkeypatch.setattr(harness, "hub_answers", lambda: False)
    with pytest.raises(DataError, match=r"neither in the cache .* language:FOLDER"):
        standard_suite("arc_easy")
    with pytest.raises(ConfigError, match="no task 'arc_eazy'"):
        standard_suite("arc_eazy")


def test_standard_tasks_are_drawn_over_the_tasks_of_a_group(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    """With data in the place of the hub's: lm-eval's own definitions, our draw and our rows."""
    import datasets

    names = ["ab", "cd", "ef", "gh"]
    documents = [
        {"question": f"Which {i}?", "choices": {"text": names, "label": ["A", "B", "C", "D"]}, "answerKey": "C"}
        for i in range(6)
    ]
    table = datasets.Dataset.from_list(documents)
    arc = Path(lm_eval.tasks.__file__).parent / "arc"
    monkeypatch.setattr(harness, "task_manager", lambda: TaskManager(include_path=arc, include_defaults=False))
    monkeypatch.setattr(
        harness.datasets, "load_dataset", lambda **_: dict.fromkeys(("train", "validation", "test"), table)
    )
    suite = standard_suite("ai2_arc", num_items=4)
    assert suite.counts() == "ai2_arc: 4 of 12 items of 2 tasks, from lm-eval's task 'ai2_arc'"
    assert sorted(item.partition("/")[0] for item in suite.item_ids) == ["arc_challenge"] * 2 + ["arc_easy"] * 2
    rows = suite.score(*model, EvaluationOptions())
    assert values_of(rows, "ai2_arc", "gold_nats").keys() == set(suite.item_ids)
    assert set(values_of(rows, "ai2_arc", "majority_correct").values()) == {1.0}
