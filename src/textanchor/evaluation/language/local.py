"""Items of language tasks from the user's own JSONL files, for machines that cannot reach the hub.

A task NAME is read from NAME.jsonl or NAME_*.jsonl (parts called dev or train aside); one JSON object on each line:

- multiple choice: id, question, choices, label (place of the right choice), and for MMLU also subject;
- HellaSwag also in its published columns: activity_label, ctx_a, ctx_b, endings, label, and ind in place of an id;
- gsm8k: id, question, solution (it ends in "#### number").
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textanchor.data.json_rows import read_rows
from textanchor.errors import DataError
from textanchor.strict_yaml import read_yaml

TASKS = Path(__file__).with_name("tasks")
NOT_FOR_TESTS = ("dev", "train")
MMLU_CHOICES = 4
FIELDS = ("id", "question", "choices", "label", "subject", "solution")
DEFAULT_ITEMS, GENERATED_ITEMS = 200, 32
GENERATES = "generate_until"
"""lm-eval's word for tasks whose answers are written freely, which takes as long as dozens of choices."""

Row = dict[str, Any]


def local_tasks() -> list[str]:
    """Names of the tasks that can be read from local files."""
    return sorted(path.stem for path in TASKS.glob("*.yaml"))


def default_items(output_types: Sequence[str]) -> int:
    """Items of a suite where no number is asked for."""
    return GENERATED_ITEMS if GENERATES in output_types else DEFAULT_ITEMS


def local_definition(task: str) -> dict[str, Any]:
    """What lm-eval is to know of a local task: prompt, answer filters, metrics."""
    return read_yaml(TASKS / f"{task}.yaml")


def local_files(path: Path) -> dict[str, Path]:
    """Task -> file: of every task that has one in a folder, or of the one that the file `path` is named after.

    DataError where there is none, or two for one task.
    """
    candidates = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    found: dict[str, Path] = {}
    for task in local_tasks():
        files = [file for file in candidates if _is_of(file, task)]
        if len(files) > 1:
            raise DataError(f"{path}: {files[0].name} and {files[1].name} are both for {task}; give one of them itself")
        if files:
            found[task] = files[0]
    if not found:
        raise DataError(
            f"{path}: no such folder or file with items of {', '.join(local_tasks())}; a file is called "
            "arc_easy.jsonl, or arc_easy_test.jsonl or the like"
        )
    return found


def _is_of(file: Path, task: str) -> bool:
    named = file.stem == task or file.stem.startswith(f"{task}_")
    return named and not set(file.stem.split("_")) & set(NOT_FOR_TESTS)


def read_local_rows(file: Path, task: str, *, problems: list[str]) -> list[Row]:
    """The sound rows of a file; of every other one, place and problem are added to `problems`."""
    read = _solution_row if task == "gsm8k" else _choice_row
    rows: dict[str, Row] = {}
    for place, raw in read_rows(file):
        row = _hellaswag_row(raw) if task == "hellaswag" else raw
        problem = _id_problem(row, rows) or read(row, task)
        if problem is None:
            rows[row["id"]] = row if task != "hellaswag" else _without_marks(row)
        else:
            problems.append(f"{place}: {problem}")
    return list(rows.values())


def _id_problem(row: Mapping[str, Any], seen: Mapping[str, Row]) -> str | None:
    name = row.get("id")
    if not isinstance(name, str) or not name:
        return "expected a text `id`"
    return f"the id {name!r} occurs twice" if name in seen else None


def _choice_row(row: Mapping[str, Any], task: str) -> str | None:
    """What is wrong with a multiple-choice row; None where nothing is."""
    choices, label = row.get("choices"), row.get("label")
    if not _is_text(row.get("question")):
        return "expected a text `question`"
    if not isinstance(choices, list) or len(choices) < 2 or not all(_is_text(choice) for choice in choices):
        return "expected `choices`, a list of at least two texts"
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(choices):
        return f"expected `label` from 0 to {len(choices) - 1}, found {label!r}"
    if task == "mmlu" and (len(choices) != MMLU_CHOICES or not _is_text(row.get("subject"))):
        return f"expected {MMLU_CHOICES} choices and a text `subject`"
    return None


def _solution_row(row: Mapping[str, Any], task: str) -> str | None:
    if not _is_text(row.get("question")):
        return "expected a text `question`"
    solution = row.get("solution")
    return None if isinstance(solution, str) and "####" in solution else 'expected a `solution` ending in "#### number"'


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


PUBLISHED_COLUMNS = ("activity_label", "ctx_a", "ctx_b", "endings")
HOW_TO = re.compile(r"[^:]*: (\[header\] )?How to ")
"""HellaSwag's rows from WikiHow: whole sentences, with no second context."""
SENTENCE_END = re.compile(r"""[.!?]["')]*(\s+|$)""")


def _hellaswag_row(row: Row) -> Row:
    """A row of HellaSwag with the question that lm-eval asks, but for the marks of its web source.

    lm-eval calls `str.capitalize` on the second context, which also makes the rest of it lower case.
    """
    if "question" in row or any(column not in row for column in PUBLISHED_COLUMNS):
        question = row.get("question")
        return {**row, "question": _with_capital(question)} if isinstance(question, str) else row
    label, first, second, endings = (row[column] for column in PUBLISHED_COLUMNS)
    gold, told = row.get("label"), all(isinstance(text, str) for text in (label, first, second))
    return {
        "id": row.get("id", str(row["ind"]) if "ind" in row else None),
        "question": f"{label}: {first} {second.capitalize()}" if told else None,
        "choices": endings,
        "label": int(gold) if isinstance(gold, str) and gold.isdecimal() else gold,
    }


def _with_capital(question: str) -> str:
    """The second context of a joined question, which is its unfinished last sentence, capitalised."""
    ends = [match.end() for match in SENTENCE_END.finditer(question)]
    if not ends or HOW_TO.match(question):
        return question
    return question[: ends[-1]] + question[ends[-1] :].capitalize()


def _without_marks(row: Row) -> Row:
    return {**row, "question": _plain(row["question"]), "choices": [_plain(choice) for choice in row["choices"]]}


def _plain(text: str) -> str:
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def draw(groups: Sequence[Hashable], num_items: int, seed: int) -> list[int]:
    """Places of `num_items` items (all where there are fewer) drawn by `seed`, every group equally often.

    A smaller number draws the beginning of what a larger one draws.
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    queues: dict[Hashable, list[int]] = defaultdict(list)
    for place in order:
        queues[groups[place]].append(int(place))
    rounds = [queue[i] for i in range(max(map(len, queues.values()))) for queue in queues.values() if i < len(queue)]
    return rounds[:num_items]
