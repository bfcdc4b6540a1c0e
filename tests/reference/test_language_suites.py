"""Language suites against a loop of our own over the whole model, and their prompts against lm-eval's own tasks."""

from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import pytest
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from helpers.language_files import choice_rows, solution_rows, write_rows
from helpers.tiny_chat import tiny_chat_model
from textanchor.evaluation.language.harness import quiet
from textanchor.evaluation.suite import EvaluationOptions, SuiteOptions
from textanchor.evaluation.suites.language import LanguageSuite, local_suites
from textanchor.evaluation.summarise import values_of

HARNESS_TASKS = Path(lm_eval.tasks.__file__).parent
TOLERANCE = dict(rel=1e-5, abs=1e-4)


def one_suite(path: Path, num_items: int) -> LanguageSuite:
    (suite,) = local_suites(path, num_items=num_items, seed=0, options=SuiteOptions())
    assert isinstance(suite, LanguageSuite)
    return suite


def nats_of(model: Any, tokenizer: Any, prompt: str, continuation: str) -> float:
    """Cross-entropy of the continuation's tokens, one row, by the whole vision-language model."""
    context, whole = (tokenizer(text)["input_ids"] for text in (prompt, prompt + continuation))
    with torch.inference_mode():
        log_p_LV = model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(dim=-1)
    return -sum(float(log_p_LV[place - 1, whole[place]]) for place in range(len(context), len(whole)))


@pytest.mark.parametrize("family", ["llava", "idefics3"])
def test_choices_agree_with_a_direct_computation_on_50_items(tmp_path: Path, family: str) -> None:
    rows = {row["id"]: row for row in choice_rows(60)}
    suite = one_suite(write_rows(tmp_path / "arc_easy_test.jsonl", list(rows.values())), 50)
    model, processor = tiny_chat_model(family)
    scores = suite.score(model, processor, EvaluationOptions())
    gold_nats, correct = (values_of(scores, "arc_easy", metric) for metric in ("gold_nats", "correct"))
    normalised = values_of(scores, "arc_easy", "correct_normalised")
    assert len(gold_nats) == 50
    for item, value in gold_nats.items():
        row = rows[item]
        nats = [
            nats_of(model, processor.tokenizer, f"Question: {row['question']}\nAnswer:", f" {choice}")
            for choice in row["choices"]
        ]
        by_length = [n / len(choice) for n, choice in zip(nats, row["choices"], strict=True)]
        assert value == pytest.approx(nats[row["label"]], **TOLERANCE)
        assert correct[item] == float(nats.index(min(nats)) == row["label"])
        assert normalised[item] == float(by_length.index(min(by_length)) == row["label"])


def test_gold_solutions_agree_with_a_direct_computation(tmp_path: Path) -> None:
    rows = {row["id"]: row for row in solution_rows(3)}
    suite = one_suite(write_rows(tmp_path / "gsm8k.jsonl", list(rows.values())), 2)
    model, processor = tiny_chat_model("llava")
    scores = suite.score(model, processor, EvaluationOptions())
    examples = suite.chosen[0].task.config.fewshot_config.samples
    shots = "".join(f"Question: {shot['question']}\nAnswer: {shot['solution']}\n\n" for shot in examples)
    for item, value in values_of(scores, "gsm8k", "gold_nats").items():
        prompt = f"{shots}Question: {rows[item]['question']}\nAnswer:"
        assert value == pytest.approx(
            nats_of(model, processor.tokenizer, prompt, f" {rows[item]['solution']}"), **TOLERANCE
        )
    tokens = values_of(scores, "gsm8k", "gold_tokens")
    assert tokens == {i: len(processor.tokenizer(f" {rows[i]['solution']}")["input_ids"]) for i in tokens}


def standard_prompts(yaml: str, document: dict[str, Any]) -> list[tuple[str, str]]:
    """Prompt and continuations that lm-eval's own task makes of a row in the format of the hub."""
    config = load_yaml(HARNESS_TASKS / yaml, resolve_func=True)
    table = datasets.Dataset.from_list([document] * 2)
    splits = {"test": table, "validation": table, "train": table, "dev": table}
    with quiet():
        task = ConfigurableTask(config=config | {"custom_dataset": lambda **_: splits, "num_fewshot": 0})
        task.build_all_requests(limit=1)
    return [instance.args for instance in task.instances]


def our_prompts(suite: LanguageSuite) -> list[tuple[str, str]]:
    task = suite.chosen[0].task
    with quiet():
        task.build_all_requests(limit=1)
    return [instance.args for instance in task.instances]


QUESTION, CHOICES, LABEL = "Which of these is warm? ", ["an ice cube", "the sun", "a moon", "a far planet"], 1
LETTERS = {"text": CHOICES, "label": ["A", "B", "C", "D"]}


@pytest.mark.parametrize(
    ("task", "yaml", "document"),
    [
        ("arc_easy", "arc/arc_easy.yaml", {"question": QUESTION, "choices": LETTERS, "answerKey": "B"}),
        ("arc_challenge", "arc/arc_challenge.yaml", {"question": QUESTION, "choices": LETTERS, "answerKey": "B"}),
        ("openbookqa", "openbookqa/openbookqa.yaml", {"question_stem": QUESTION, "choices": LETTERS, "answerKey": "B"}),
        ("piqa", "piqa/piqa.yaml", {"goal": QUESTION, "sol1": CHOICES[0], "sol2": CHOICES[1], "label": 1}),
        (
            "hellaswag",
            "hellaswag/hellaswag.yaml",
            {
                "activity_label": "Cooking",
                "ctx_a": "A pot [title] boils.",
                "ctx_b": "a cook",
                "endings": CHOICES,
                "label": "1",
            },
        ),
        (
            "mmlu",
            "mmlu/default/mmlu_high_school_geography.yaml",
            {"question": QUESTION, "choices": CHOICES, "answer": 1},
        ),
    ],
)
def test_local_prompts_are_those_of_lm_eval(tmp_path: Path, task: str, yaml: str, document: dict[str, Any]) -> None:
    row = {"id": "0", "question": QUESTION, "choices": CHOICES, "label": LABEL, "subject": "high_school_geography"}
    row |= {"choices": CHOICES[:2]} if task == "piqa" else {}
    row |= {"question": "Cooking: A pot [title] boils. A cook"} if task == "hellaswag" else {}
    suite = one_suite(write_rows(tmp_path / f"{task}.jsonl", [row]), 1)
    assert our_prompts(suite) == standard_prompts(yaml, document)


def test_the_local_gsm8k_reads_answers_as_lm_eval_does(tmp_path: Path) -> None:
    suite = one_suite(write_rows(tmp_path / "gsm8k.jsonl", solution_rows(1)), 1)
    ours, theirs = suite.chosen[0].task.config, load_yaml(HARNESS_TASKS / "gsm8k/gsm8k.yaml", resolve_func=True)
    assert ours.filter_list == theirs["filter_list"]
    assert ours.metric_list == theirs["metric_list"]
    assert ours.doc_to_text == theirs["doc_to_text"]
    assert ours.generation_kwargs["until"] == theirs["generation_kwargs"]["until"]
