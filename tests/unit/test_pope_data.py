"""POPE's questions from files: the authors' format, our own, and from object lists."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from textanchor.data.pope import object_items, question_files, read_questions
from textanchor.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.jpg")
    return tmp_path


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_the_official_format(folder: Path) -> None:
    file = write(
        folder / "coco_pope_popular.json",
        {"question_id": 1, "image": "a.jpg", "text": "Is there a snowboard in the image?", "label": "yes"},
        {"question_id": 2, "image": "b.jpg", "text": "Is there a dog in the image?", "label": "no"},
    )
    assert question_files(file) == {"popular": file}
    first, second = read_questions(file, "popular", folder)
    assert (first.id, first.task, first.question) == ("popular/1", "pope_popular", "Is there a snowboard in the image?")
    assert (first.answer, second.answer, first.choices) == ("yes", "no", ("yes", "no"))
    assert second.image == (folder / "b.jpg").resolve()


def test_our_format_in_a_folder(folder: Path) -> None:
    for strategy in ("random", "adversarial"):
        write(folder / f"pope_{strategy}.jsonl", {"id": "q", "image": "a.jpg", "question": "Is it?", "answer": "no"})
    write(folder / "data.jsonl", {})
    files = question_files(folder)
    assert list(files) == ["random", "adversarial"]
    assert [read_questions(file, name, folder)[0].id for name, file in files.items()] == ["random/q", "adversarial/q"]
    (folder / "my_pope_random.json").write_text("[]")
    with pytest.raises(DataError, match="both random"):
        question_files(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label": "maybe"}, "'maybe'"),
        ({"label": True}, "'label' or 'answer'"),
        ({"text": " "}, "'text' or 'question'"),
        ({"image": "none.jpg"}, "not in the image folder"),
        ({"image": "../a.jpg"}, "leads out"),
        ({}, "given above"),
    ],
)
def test_malformed_questions_are_named_by_line(folder: Path, changes: dict[str, Any], reason: str) -> None:
    good = {"question_id": 1, "image": "a.jpg", "text": "Is it?", "label": "yes"}
    file = write(folder / "q.json", good, good | changes, good | {"question_id": 3})
    with pytest.raises(DataError, match=f"line 2.*{reason}"):
        read_questions(file, "questions", folder)
    problems: list[str] = []
    assert [item.id for item in read_questions(file, "questions", folder, problems=problems)] == [
        "questions/1",
        "questions/3",
    ]
    assert len(problems) == 1


def joined(**names: str) -> list[dict[str, Any]]:
    """Two questions of each category, numbered anew in each, with other names of columns where given."""
    rows = [
        {
            "question_id": str(n),
            "question": "Is it?",
            "answer": ("yes", "no")[n],
            "image": "a.jpg",
            "category": category,
        }
        for category in ("adversarial", "popular", "random")
        for n, answer in enumerate(("yes", "no"))
    ]
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


@pytest.mark.parametrize(
    ("names", "changes"),
    [
        ({}, {}),
        ({"question": "text", "answer": "label", "category": "type"}, {}),
        ({"question": "query", "answer": "gt_answer", "category": "strategy"}, {"strategy": "coco_Popular"}),
        ({"image": "image_source"}, {"image_source": "a"}),
        ({"question": "prompt", "answer": "ground_truth"}, {"image": {"bytes": None, "path": "a.jpg"}}),
    ],
)
def test_one_file_of_all_categories(folder: Path, names: dict[str, str], changes: dict[str, Any]) -> None:
    rows = joined(**names)
    rows[2] |= changes
    file = write(folder / "pope.jsonl", *rows)
    assert question_files(folder) == question_files(file) == {"questions": file}
    items = read_questions(file, "questions", folder)
    assert [item.id for item in items] == [
        f"{category}/{n}" for category in ("adversarial", "popular", "random") for n in range(2)
    ]
    assert {item.task for item in items} == {"pope_adversarial", "pope_popular", "pope_random"}
    assert [item.answer for item in items] == ["yes", "no"] * 3
    assert all(item.image == (folder / "a.jpg").resolve() and item.image_id == "a.jpg" for item in items)


def test_numbers_that_come_again_within_a_category(folder: Path) -> None:
    good = {"question_id": 1, "image": "a.jpg", "text": "Is it?", "label": "Yes."}
    file = write(folder / "q.json", good, good | {"image": "b.jpg"}, good | {"text": "Is that?"})
    assert [item.id for item in read_questions(file, "popular", folder)] == ["popular/1", "popular/1#2", "popular/1#3"]


def test_two_files_of_all_categories_are_not_guessed_between(folder: Path) -> None:
    for name in ("pope.json", "pope_again.json"):
        write(folder / name, *joined())
    with pytest.raises(DataError, match=r"pope.json and pope_again.json are both POPE of no strategy"):
        question_files(folder)


def test_questions_without_answers_say_where_those_are(folder: Path) -> None:
    """LLaVA's llava_pope_test.jsonl holds the questions of all categories, and no labels."""
    file = write(folder / "q.jsonl", {"question_id": 1, "image": "a.jpg", "text": "Is it?", "category": "popular"})
    with pytest.raises(DataError, match=r"line 1: expected text under 'label' or 'answer'.*the authors' own"):
        read_questions(file, "questions", folder)


def test_questions_from_object_lists(folder: Path) -> None:
    objects = {"a": ("dog", "orange"), "b": ("cat",)}
    items = object_items(objects, {name: folder / f"{name}.jpg" for name in objects}, "random")
    assert len(items) == 4, "one absent object for image a, one present for image b"
    assert {item.answer for item in items} == {"yes", "no"}
    for item in items:
        name = item.question.removeprefix("Is there a").removeprefix("n").removesuffix(" in the image?").strip()
        assert (name in objects[item.image_id or ""]) == (item.answer == "yes")
    assert len({item.id for item in items}) == 4


def test_cocos_official_questions_are_read(shared_data: Path, folder: Path) -> None:
    file = shared_data / "hallucination_files" / "coco_pope_adversarial.json"
    problems: list[str] = []
    assert read_questions(file, "adversarial", folder, problems=problems) == []
    assert len(problems) == 3000
    assert all("not in the image folder" in problem for problem in problems), "only the images are missing"
