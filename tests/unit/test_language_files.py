"""Rows of local language files: which are found, which are refused, which are drawn."""

from collections import Counter
from pathlib import Path

import pytest

from helpers.language_files import choice_rows, solution_rows, write_rows
from textanchor.errors import DataError
from textanchor.evaluation.language.local import draw, local_files, local_tasks, read_local_rows


def test_files_are_found_by_name(tmp_path: Path) -> None:
    for name in ("arc_easy_test.jsonl", "mmlu_dev.jsonl", "mmlu_test.jsonl", "piqa.jsonl", "other.jsonl", "arc.jsonl"):
        write_rows(tmp_path / name, choice_rows(1))
    found = {task: file.name for task, file in local_files(tmp_path).items()}
    assert found == {"arc_easy": "arc_easy_test.jsonl", "mmlu": "mmlu_test.jsonl", "piqa": "piqa.jsonl"}
    assert local_files(tmp_path / "piqa.jsonl") == {"piqa": tmp_path / "piqa.jsonl"}
    write_rows(tmp_path / "piqa_val.jsonl", choice_rows(1))
    with pytest.raises(DataError, match=r"piqa.jsonl and piqa_val.jsonl"):
        local_files(tmp_path)


@pytest.mark.parametrize("name", ["none", "other.jsonl"])
def test_without_items_the_names_are_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="arc_easy"):
        local_files(tmp_path / name)


@pytest.mark.parametrize(
    ("task", "change", "told"),
    [
        ("arc_easy", {"label": 4}, "`label` from 0 to 3, found 4"),
        ("arc_easy", {"label": "1"}, "found '1'"),
        ("arc_easy", {"label": True}, "found True"),
        ("arc_easy", {"choices": ["one"]}, "at least two"),
        ("arc_easy", {"choices": ["one", " "]}, "at least two"),
        ("arc_easy", {"question": ""}, "`question`"),
        ("arc_easy", {"id": "row-0"}, "occurs twice"),
        ("arc_easy", {"id": 3}, "text `id`"),
        ("mmlu", {"subject": None}, "`subject`"),
        ("mmlu", {"choices": ["a", "b"], "label": 0}, "4 choices"),
        ("gsm8k", {"solution": "18"}, "####"),
    ],
)
def test_a_malformed_row_is_named_by_line_and_the_others_kept(
    tmp_path: Path, task: str, change: dict[str, object], told: str
) -> None:
    rows = solution_rows(3) if task == "gsm8k" else choice_rows(3, subject=True)
    rows[1] |= change
    problems: list[str] = []
    kept = read_local_rows(write_rows(tmp_path / f"{task}.jsonl", rows), task, problems=problems)
    assert [row["id"] for row in kept] == [rows[0]["id"], rows[2]["id"]]
    assert len(problems) == 1
    assert "line 2: " in problems[0]
    assert told in problems[0]


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        (
            {"question": " Cooking: [header] Boil water. [title] Then [step] add salt. "},
            "Cooking: Boil water.. Then add salt.",
        ),
        ({"question": "Sumo: Rockets are shot. two men"}, "Sumo: Rockets are shot. Two men"),
        ({"question": 'Sumo: He says "no!" 5 men from Rome'}, 'Sumo: He says "no!" 5 men from rome'),
        (
            {"question": "Home: How to sew. Buy yarn (e.g. wool). take it home"},
            "Home: How to sew. Buy yarn (e.g. wool). take it home",
        ),
        ({"question": "Home: [header] How to sew. [step] take yarn"}, "Home: How to sew. take yarn"),
        ({"question": "Sumo: two men"}, "Sumo: two men"),
        ({"activity_label": "Sumo", "ctx_a": "Shots are fired", "ctx_b": "mr. Lee"}, "Sumo: Shots are fired Mr. lee"),
        ({"activity_label": "Home", "ctx_a": "[header] Sew. [title] Buy it", "ctx_b": ""}, "Home: Sew.. Buy it"),
    ],
)  # what lm-eval 0.4.13 asks; tests/reference compares with it
def test_hellaswag_is_asked_as_lm_eval_asks_it(tmp_path: Path, row: dict[str, str], asked: str) -> None:
    answers = choice_rows(1)[0]
    published = "ctx_a" in row
    rest = {"ind": 7, "endings": answers["choices"], "label": "2"} if published else answers
    (kept,) = read_local_rows(write_rows(tmp_path / "hellaswag.jsonl", [rest | row]), "hellaswag", problems=[])
    assert kept["question"] == asked
    assert (kept["choices"], kept["label"]) == (answers["choices"], 2 if published else answers["label"])
    assert kept["id"] == ("7" if published else answers["id"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ctx_b": None}, "`question`"),
        ({"endings": "one"}, "`choices`"),
        ({"label": "x"}, "`label`"),
        ({"ind": 6}, "twice"),
    ],
)
def test_published_columns_of_hellaswag_are_checked_too(tmp_path: Path, change: dict[str, object], told: str) -> None:
    published = {"activity_label": "Sumo", "ctx_a": "Shots.", "ctx_b": "he", "endings": ["a", "b"], "label": 1}
    file = write_rows(tmp_path / "hellaswag.jsonl", [published | {"ind": 6}, published | {"ind": 7} | change])
    problems: list[str] = []
    assert len(read_local_rows(file, "hellaswag", problems=problems)) == 1
    assert len(problems) == 1
    assert "line 2: " in problems[0]
    assert told in problems[0]


def test_a_draw_is_balanced_and_a_smaller_one_its_beginning() -> None:
    groups = ["a"] * 50 + ["b"] * 5 + ["c"] * 20
    drawn = draw(groups, 12, seed=3)
    assert Counter(groups[place] for place in drawn) == {"a": 4, "b": 4, "c": 4}
    assert draw(groups, 6, seed=3) == drawn[:6]
    assert sorted(draw(groups, 1000, seed=3)) == list(range(75))
    assert draw(groups, 12, seed=4) != drawn
    assert draw(groups, 12, seed=3) == drawn


def test_the_shared_files_are_read_whole(shared_data: Path) -> None:
    problems: list[str] = []
    counts = {
        task: len(read_local_rows(file, task, problems=problems))
        for task, file in local_files(shared_data / "language").items()
        if task != "mmlu"  # 14,042 rows: seconds
    }
    assert problems == []
    multiple_choice = {"arc_challenge": 1172, "arc_easy": 2376, "hellaswag": 5000, "openbookqa": 500, "piqa": 1838}
    assert counts == multiple_choice | {"gsm8k": 1319}
    assert counts.keys() | {"mmlu"} == set(local_tasks())
