"""The user's files as items: rows and conversations are read whole, or named by line and counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from textanchor.data.folder import read_items
from textanchor.data.items import Turn
from textanchor.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set" / "images").mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "set" / "images" / f"{name}.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    return tmp_path / "set"


def write(folder: Path, *rows: Any) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")


def row(**changes: Any) -> dict[str, Any]:
    return {"id": "1", "image": "images/a.png", "question": "What?", "answer": "cat", "split": "test"} | changes


def test_a_row_is_read_whole(folder: Path) -> None:
    write(
        folder,
        row(
            task="naming", choices=["dog", "cat"], objects=["cat", "bed"], captions=["A cat.", "cat on bed"], origin="x"
        ),
        row(id=2, split="train"),
        {"question": " Is text enough? ", "answer": " yes "},
    )
    first, last = read_items(folder)
    assert (first.id, first.task, first.choices) == ("1", "naming", ("dog", "cat"))
    assert (first.objects, first.references) == (("cat", "bed"), ("A cat.", "cat on bed"))
    assert first.image == (folder / "images" / "a.png").resolve()
    assert (last.id, last.question, last.answer, last.image) == ("row-3", "Is text enough?", "yes", None)
    assert [item.id for item in read_items(folder, split="train")] == ["2", "row-3"]


MALFORMED: list[tuple[Any, str]] = [
    ("{broken", "not valid JSON"),
    ([1, 2], "JSON object"),
    (row(question=""), "'question'"),
    (row(answer=7), "'answer'"),
    (row(choices=["dog", "bird"]), "'choices'"),
    (row(choices=["cat", "cat"]), "'choices'"),
    (row(objects="cat"), "'objects'"),
    (row(objects=["cat", "!!!"]), "'objects': '!!!' has no letter"),
    (row(captions=[""]), "'captions'"),
    (row(image=["images/a.png", "images/b.png"]), "2 images"),
    (row(image=7), "'image'"),
    (row(image=["images/a.png", ""]), "'image'"),
    (row(images="images/b.png"), "both under 'image' and under 'images'"),
    (row(answer="<image>"), "holds <image>"),
    (row(choices=["cat", "<image>"]), "holds <image>"),
    (row(answer="<img>images/a.png</img>"), "holds images/a.png"),
    (row(question="<image> or <image>?"), "2 <image> placeholders for 1 images"),
    (row(image=None, question="<image> What?"), "1 <image> placeholders for 0 images"),
    (row(image="", image_path="images/a.png"), "'image_path'.*seems to name an image"),
    (row(image="a" * 5000), "is no path"),
    (row(id=["1"]), "'id'"),
    (row(image="images/none.png"), "not in the image folder"),
    (row(image="../outside.png"), "leads out"),
    (row(image="/etc/passwd"), "leads out"),
    (row(image="https://example.org/a.png"), "no file"),
]


@pytest.mark.parametrize(("bad", "reason"), MALFORMED)
def test_a_malformed_row_is_named_by_line(folder: Path, bad: Any, reason: str) -> None:
    write(folder, row(), bad)
    with pytest.raises(DataError, match=f"line 2.*{reason}"):
        read_items(folder)


def test_malformed_rows_are_counted_and_the_others_kept(folder: Path) -> None:
    write(folder, row(), *(bad for bad, _ in MALFORMED), row(id="2"), row(id="2"))
    problems: list[str] = []
    assert [item.id for item in read_items(folder, problems=problems)] == ["1", "2"]
    assert len(problems) == len(MALFORMED) + 1
    assert all(f"line {n}" in problem for n, problem in enumerate(problems[:-1], start=2))
    assert "'2' has been given above" in problems[-1]


def test_an_id_given_to_other_questions_gets_a_number(folder: Path) -> None:
    """LLaVA's own files give one id to several conversations about an image."""
    turns = [
        {"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(("What?", "A bus.", "Red?", "Yes"))
    ]
    write(
        folder,
        row(id="33471", answer="A bus."),
        row(id="33471", answer="A red bus."),
        row(id="33471#2", answer="a bus"),
        row(id="33471", answer="One."),
        {"id": "talk", "conversations": turns[:2]},
        {"id": "talk", "conversations": turns},
        {"id": "talk", "conversations": turns[2:] + turns[:2]},
    )
    items = read_items(folder)
    assert [item.id for item in items] == [
        *("33471", "33471#2", "33471#2#2", "33471#3"),
        *("talk", "talk/1", "talk/2", "talk/1#2", "talk/2#2"),
    ]
    assert [item.answer for item in items[-4:]] == ["A bus.", "Yes", "Yes", "A bus."]
    write(folder, {"id": "talk", "conversations": turns}, {"id": "talk", "conversations": turns})
    with pytest.raises(DataError, match="line 2: the row with the id 'talk/1' has been given above"):
        read_items(folder)


@pytest.mark.parametrize("empty", [None, "", " ", [], [""], [None], {}])
def test_an_empty_image_is_none(folder: Path, empty: Any) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A bus."}]
    write(
        folder,
        row(image=empty),
        row(id="2", image=empty, images=["images/a.png"]),
        {"image": empty, "conversations": turns},
    )
    assert [item.image is not None for item in read_items(folder)] == [False, True, False]


@pytest.mark.parametrize(
    "image",
    [
        ["images/a.png"],
        {"path": "images/a.png", "bytes": None},
        [{"url": "images/a.png"}],
    ],
)
def test_an_image_may_be_a_list_or_an_object(folder: Path, image: Any) -> None:
    write(folder, row(image=image), {k: v for k, v in row(images=image, id="2").items() if k != "image"})
    for item in read_items(folder):
        assert item.image == (folder / "images" / "a.png").resolve()
        assert item.image_id == "images/a.png"


@pytest.mark.parametrize(
    "keys",
    [
        {"image_path": "images/a.png"},
        {"img": "images/a.png"},
        {"file_name": "images/a.png"},
        {"image_id": 33471},
        {"Image": {"bytes": "0x"}},
        {"num_images": 1},
        {"frames": ["images/a.png"]},
    ],
)
def test_an_image_under_another_key_is_never_passed_over(folder: Path, keys: dict[str, Any]) -> None:
    bare = {key: value for key, value in row().items() if key != "image"}
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A bus."}]
    for bad in (bare | keys, {"conversations": turns} | keys, {"conversations": [turns[0] | keys, turns[1]]}):
        write(folder, bad)
        with pytest.raises(DataError, match=f"line 1, key '{next(iter(keys))}'.*put its path there"):
            read_items(folder)
    write(folder, row() | keys)
    assert len(read_items(folder)) == 1, "beside an image that is read"


@pytest.mark.parametrize(
    "keys", [{"num_images": 0}, {"has_image": False}, {"image_id": None}, {"id": "a.png"}, {"answer": "a.png"}]
)
def test_what_names_no_image_is_left_alone(folder: Path, keys: dict[str, Any]) -> None:
    write(folder, {key: value for key, value in row().items() if key != "image"} | keys)
    assert read_items(folder)[0].image is None


def test_tags_in_a_question_are_read(folder: Path) -> None:
    bare = {key: value for key, value in row().items() if key != "image"}
    write(
        folder,
        bare | {"question": "<img>images/a.png</img> What?"},
        row(id="2", question="[img] What?"),
        bare | {"id": "3", "question": "What does [img] do?"},
    )
    items = read_items(folder)
    assert [item.question for item in items] == ["<image> What?", "<image> What?", "What does [img] do?"]
    assert [item.image_id for item in items] == ["images/a.png", "images/a.png", None]


def test_the_split_of_a_conversation_counts(folder: Path) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A bus."}]
    write(folder, {"split": "train", "conversations": turns}, {"id": "t", "split": None, "conversations": turns})
    assert [item.id for item in read_items(folder)] == ["t"]


def test_a_link_that_leads_out_is_refused(folder: Path) -> None:
    (folder / "images" / "link.png").symlink_to(folder.parent / "outside.png")
    write(folder, row(image="images/link.png"))
    with pytest.raises(DataError, match="leads out"):
        read_items(folder)


def test_an_unknown_split_names_those_there_are(folder: Path) -> None:
    write(folder, row(split="train"), row(split="val"))
    with pytest.raises(DataError, match="it has train, val"):
        read_items(folder)


def test_images_may_lie_elsewhere(folder: Path) -> None:
    write(folder, row(image="a.png"))
    assert read_items(folder, image_folder=folder / "images")[0].image == (folder / "images" / "a.png").resolve()


def test_every_answer_of_a_conversation_is_an_item(folder: Path) -> None:
    turns = ["<image>\nWhat is it?", "A cat.", "Which color?", "Red. "]
    messages = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]
    late = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "And "}, {"type": "image"}, {"type": "text", "text": "?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "a dog"}]},
    ]
    write(
        folder,
        {"id": "c", "image": "images/a.png", "conversations": messages},
        {"messages": late, "images": ["images/b.png"]},
    )
    one, two, hello, dog = read_items(folder)
    assert (one.id, one.question, one.answer, one.history) == ("c/1", turns[0], "A cat.", ())
    assert (two.id, two.answer, two.history) == ("c/2", "Red.", (Turn(question=turns[0], answer="A cat."),))
    assert one.image == two.image
    assert (hello.image, hello.system) == (None, "Be short."), "its image is shown only later"
    assert dog.image == (folder / "images" / "b.png").resolve()


def test_a_conversation_about_two_images_is_named(folder: Path) -> None:
    messages = [{"role": "user", "content": "Same?"}, {"role": "assistant", "content": "no"}]
    write(folder, {"messages": messages, "images": ["images/a.png", "images/b.png"]})
    with pytest.raises(DataError, match="line 1: 2 images"):
        read_items(folder)
