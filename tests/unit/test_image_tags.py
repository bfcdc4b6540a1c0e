"""Images in the text of a conversation, as other trainers write them: read, or refused; words are left as words."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from textanchor.data.conversations import read_conversations
from textanchor.data.image_tags import mark_images
from textanchor.data.items import Conversation
from textanchor.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "sub/b c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    return tmp_path


def read(folder: Path, question: str, answer: str = "A.", **keys: Any) -> Conversation:
    row = {"conversations": [{"from": "user", "value": question}, {"from": "assistant", "value": answer}], **keys}
    (folder / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    return read_conversations(folder / "rows.jsonl")[0]


WITH_PATH = [
    ("Picture 1: <img>a.png</img>\nWhat is it?", "Picture 1: <image>\nWhat is it?"),
    ("<Img> a.png </Img>What?", "<image>What?"),
    ("<image>a.png</image>\nWhat?", "<image>\nWhat?"),
    ("<img_path>a.png</img_path>What?", "<image>What?"),
    ("What is it? <|vision_start|>a.png<|vision_end|>", "What is it? <image>"),
    ("<|begin_of_image|>a.png<|end_of_image|>What?", "<image>What?"),
    ("<start_of_image>a.png<end_of_image>What?", "<image>What?"),
    ("[img]a.png[/img] What?", "<image> What?"),
    ("[IMAGE]a.png[/IMAGE]What?", "<image>What?"),
    ('<img src="a.png" alt="x"/> What?', "<image> What?"),
    ("![a cup](a.png) What?", "<image> What?"),
]


@pytest.mark.parametrize(("question", "read_as"), WITH_PATH)
def test_a_path_in_the_text_is_an_image(folder: Path, question: str, read_as: str) -> None:
    conversation = read(folder, question)
    assert conversation.images == ((folder / "a.png").resolve(),)
    assert conversation.turns[0].question == read_as


@pytest.mark.parametrize("question", [question.replace("a.png", "none.png") for question, _ in WITH_PATH[:9]])
def test_a_path_that_is_not_there_is_refused(folder: Path, question: str) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl, line 1: image 'none.png' is not in the image folder"):
        read(folder, question)


@pytest.mark.parametrize(
    "mark",
    [
        *("<image>", "<Image>", "<IMAGE>", "<|image|>", "<image_placeholder>", "<ImageHere>", "<Img><ImageHere></Img>"),
        *("<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>", "<im_start><image><im_end>", "<image_1>"),
        *("<image 1>", "<|image_1|>", "<start_of_image>", "<image_soft_token>", "<IMG_CONTEXT>", "(<image>./</image>)"),
    ],
)
def test_the_places_of_listed_images(folder: Path, mark: str) -> None:
    conversation = read(folder, f"{mark}\nWhat?", image="a.png")
    assert conversation.turns[0].question in ("<image>\nWhat?", "(<image>)\nWhat?")
    assert len(conversation.images) == 1
    with pytest.raises(DataError, match="1 <image> placeholders for 0 images"):
        read(folder, f"{mark}\nWhat?")


@pytest.mark.parametrize("mark", ["[img]", "[image]", "[IMG]", "{image}", "{img}", "<img>"])
def test_marks_that_are_also_words(folder: Path, mark: str) -> None:
    assert read(folder, f"{mark} What?", image="a.png").turns[0].question == "<image> What?"
    assert read(folder, f"What?\n{mark}\n", image="a.png").turns[0].question == "What?\n<image>\n"
    with pytest.raises(DataError, match=r'seems to mark an image, but names none.*none by "images": \[\]'):
        read(folder, f"{mark} What?")
    assert read(folder, f"{mark} What?", images=[]).turns[0].question == f"{mark} What?", "the row says it has none"
    assert read(folder, f"What does {mark} do?").turns[0].question == f"What does {mark} do?"
    question = f"{mark} and {mark}?"
    assert read(folder, question, image="a.png").turns[0].question in (question, f"<image> and {mark}?")


@pytest.mark.parametrize(
    "text",
    [
        'Mend this page: <img src="logo.png">',
        "<img src='https://example.org/a.png'>",
        "![badge](https://example.org/badge.svg)",
        "List<Image> images = new ArrayList<>();",
        "What is <imagery>? And a < b > c?",
        "def f(img): return img[0]",
    ],
)
def test_code_stays_as_it_is(folder: Path, text: str) -> None:
    assert read(folder, text).turns[0].question == text
    assert read(folder, "Write a page.", answer=text).turns[0].answer == text


def test_html_of_an_existing_file_is_code_where_the_row_lists_its_images(folder: Path) -> None:
    text = 'Mend <img src="a.png">'
    assert read(folder, text, images=[]).images == ()
    assert read(folder, text, image="sub/b c.jpg").turns[0].question == text


def test_several_images_in_their_order(folder: Path) -> None:
    conversation = read(folder, "<img>sub/b c.jpg</img> or <img>a.png</img>?")
    assert [path.name for path in conversation.images] == ["b c.jpg", "a.png"]
    numbered = read(folder, "<image 1> or <image 2>?", images=["a.png", "sub/b c.jpg"])
    assert numbered.turns[0].question == "<image> or <image>?"
    with pytest.raises(DataError, match="in the order 2, 1"):
        read(folder, "<image 2> or <image 1>?", images=["a.png", "sub/b c.jpg"])
    with pytest.raises(DataError, match="1 of 2 image parts name their file"):
        read(folder, "<img>a.png</img> or <image>?", image="a.png")


def test_images_of_a_message(folder: Path) -> None:
    """Ollama's and others' messages have the images beside their text."""
    for content, read_as in (("What?", "<image>What?"), ("See <image>", "See <image>")):
        messages = [{"role": "user", "content": content, "images": ["a.png"]}, {"role": "assistant", "content": "A."}]
        (folder / "rows.jsonl").write_text(json.dumps({"messages": messages}), encoding="utf-8")
        (conversation,) = read_conversations(folder / "rows.jsonl")
        assert (conversation.turns[0].question, len(conversation.images)) == (read_as, 1)


def test_openais_parts(folder: Path) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A."}]
    (folder / "rows.jsonl").write_text(json.dumps({"messages": messages}), encoding="utf-8")
    assert read_conversations(folder / "rows.jsonl")[0].turns[0].question == "<image>What?"


@pytest.mark.parametrize("answer", ["See <img>a.png</img>", "<image>", "[img]x.jpg[/img]"])
def test_an_answer_holds_no_image(folder: Path, answer: str) -> None:
    with pytest.raises(DataError, match=r"line 1, answer 1: holds .*remove the image"):
        read(folder, "Draw.", answer=answer)


@pytest.mark.parametrize(
    "text", ["<image> " * 20_000, "<img " * 20_000, "![a" * 20_000, "[img]" * 20_000, "<img>" * 20_000]
)
def test_no_text_takes_long(text: str) -> None:
    mark_images(text, lambda _: False)
