"""Language suites against a loop of our own over the whole model, and their prompts against lm-eval's own tasks."""

from collections.abc import Callable
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
from textanchor.evaluation.results.values import values_of
from textanchor.evaluation.suite import EvaluationOptions, SuiteOptions
from textanchor.evaluation.suites.language import LanguageSuite, local_suites

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


CHOICES = ["an ice cube", " the sun", "a moon of 3 [kg]", "a far planet"]
QUESTIONS = ("Which of these is warm? ", "12", 'One is "{{hot}}" [a]:\n which,  then? it')
LETTERS = {"text": CHOICES, "label": ["A", "B", "C", "D"]}
SUBJECTS = ("high_school_geography", "us_foreign_policy", "anatomy")
STANDARD: list[tuple[str, str, Callable[[str], dict[str, Any]]]] = [
    ("arc_easy", "arc/arc_easy.yaml", lambda text: {"question": text, "choices": LETTERS, "answerKey": "B"}),
    ("arc_challenge", "arc/arc_challenge.yaml", lambda text: {"question": text, "choices": LETTERS, "answerKey": "B"}),
    ("openbookqa", "openbookqa/openbookqa.yaml", lambda t: {"question_stem": t, "choices": LETTERS, "answerKey": "B"}),
    ("piqa", "piqa/piqa.yaml", lambda text: {"goal": text, "sol1": CHOICES[0], "sol2": CHOICES[1], "label": 1}),
]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(("task", "yaml", "document"), STANDARD)
def test_local_prompts_are_those_of_lm_eval(
    tmp_path: Path, task: str, yaml: str, document: Callable[[str], dict[str, Any]], question: str
) -> None:
    row = {"id": "0", "question": question, "choices": CHOICES[:2] if task == "piqa" else CHOICES, "label": 1}
    suite = one_suite(write_rows(tmp_path / f"{task}.jsonl", [row]), 1)
    assert our_prompts(suite) == standard_prompts(yaml, document(question))


@pytest.mark.parametrize(("question", "subject"), list(zip(QUESTIONS, SUBJECTS, strict=True)))
def test_local_prompts_of_mmlu_name_the_subject_as_lm_eval_does(tmp_path: Path, question: str, subject: str) -> None:
    row = {"id": "0", "question": question, "choices": CHOICES, "label": 1, "subject": subject}
    suite = one_suite(write_rows(tmp_path / "mmlu.jsonl", [row]), 1)
    document = {"question": question, "choices": CHOICES, "answer": 1}
    assert our_prompts(suite) == standard_prompts(f"mmlu/default/mmlu_{subject}.yaml", document)


HELLASWAG = [
    ("Roof shingle removal", "A man is sitting on a roof.", "he"),
    ("Sumo", "Rockets are being shot. They stop!", "two men from Rome, one in NASA's shirt,"),
    ("Playing saxophone", "1 a guy is playing.", "2 a guy"),
    ("Sharpening knives", 'A "trend" logo appears on "the screen."', '" knife'),
    ("Home and Garden", "[header] How to sew [title] Buy yarn. [step] It is soft (e.g. wool). [substeps] Pay it.", ""),
    ("Cooking", "[header] How to boil rice [title] Take a pot", ""),
]


@pytest.mark.parametrize(("label", "first", "second"), HELLASWAG)
@pytest.mark.parametrize("published", [True, False])
def test_local_prompts_of_hellaswag_are_those_of_lm_eval(
    tmp_path: Path, published: bool, label: str, first: str, second: str
) -> None:
    document = {"activity_label": label, "ctx_a": first, "ctx_b": second, "endings": CHOICES, "label": "1"}
    row = document | {"ind": 0}
    if not published:
        row = {"id": "0", "question": f"{label}: {first} {second}", "choices": CHOICES, "label": 1}
    suite = one_suite(write_rows(tmp_path / "hellaswag.jsonl", [row]), 1)
    assert our_prompts(suite) == standard_prompts("hellaswag/hellaswag.yaml", document)


def test_local_gsm8k_asks_the_problem_as_lm_eval_does(tmp_path: Path) -> None:
    (row,) = solution_rows(1)
    suite = one_suite(write_rows(tmp_path / "gsm8k.jsonl", [row]), 1)
    (ours, _), (theirs, _) = (
        our_prompts(suite)[0],
        standard_prompts("gsm8k/gsm8k.yaml", {"question": row["question"], "answer": row["solution"]})[0],
    )
    assert ours.endswith(f"\n\n{theirs}")
    assert ours.count("Question: ") == 5  # four examples of ours before it


def test_the_local_gsm8k_reads_answers_as_lm_eval_does(tmp_path: Path) -> None:
    suite = one_suite(write_rows(tmp_path / "gsm8k.jsonl", solution_rows(1)), 1)
    ours, theirs = suite.chosen[0].task.config, load_yaml(HARNESS_TASKS / "gsm8k/gsm8k.yaml", resolve_func=True)
    assert ours.filter_list == theirs["filter_list"]
    assert ours.metric_list == theirs["metric_list"]
    assert ours.doc_to_text == theirs["doc_to_text"]
    assert ours.generation_kwargs["until"] == theirs["generation_kwargs"]["until"]
