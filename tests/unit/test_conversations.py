"""Every supported form of a row, and one error for every way to get it wrong."""

import json

import pytest
from PIL import Image

from textanchor.data.conversations import read_conversations
from textanchor.data.items import Turn
from textanchor.data.json_rows import read_rows
from textanchor.errors import DataError

TURN = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "sub/b.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(path)
    Image.new("RGB", (2, 2)).save(tmp_path / "outside.png")
    return tmp_path / "data"


def read(folder, *rows, name="rows.jsonl"):
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return read_conversations(folder / name)


def test_llava_row(folder):
    (conversation,) = read(folder, {"id": 7, "image": "a.png", "conversations": TURN})
    assert conversation.id == "7"
    assert conversation.turns == (Turn(question="<image>\nWhat?", answer="A cup."),)
    assert conversation.images == ((folder / "a.png").resolve(),)
    assert conversation.system is None


def test_several_turns_several_images_and_a_system_text(folder):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>First?"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "And <image>?"},
        {"role": "assistant", "content": "Two."},
    ]
    (conversation,) = read(folder, {"messages": messages, "images": ["sub/b.png", "a.png"]})
    assert [path.name for path in conversation.images] == ["b.png", "a.png"]
    assert [turn.answer for turn in conversation.turns] == ["One.", "Two."]
    assert conversation.system == "Be brief." and conversation.id == "row-1"


def test_parts_with_paths_and_parts_without(folder):
    def row(first, second, **images):
        content = [{"type": "image", **first}, {"type": "text", "text": "or "}, {"type": "image", **second}]
        answer = {"role": "assistant", "content": [{"type": "text", "text": "Both."}]}
        return {"messages": [{"role": "user", "content": content}, answer], **images}

    with_paths, without = read(
        folder,
        row({"path": "a.png"}, {"image": "sub/b.png"}),
        row({}, {"image": None}, images=["a.png", "sub/b.png"]),
    )
    assert with_paths.images == without.images and with_paths.turns == without.turns
    assert with_paths.turns == (Turn(question="<image>or <image>", answer="Both."),)


def test_text_only_and_image_without_placeholder(folder):
    plain = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    text, pictured = read(folder, {"conversations": plain}, {"conversations": plain, "image": "a.png", "system": "S"})
    assert text.images == () and len(pictured.images) == 1 and pictured.system == "S"


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_array_or_lines_are_told_by_content_and_the_mark_is_no_matter(folder, name):
    row = {"conversations": TURN, "image": "a.png"}
    (folder / name).write_text("\ufeff" + json.dumps([row, row], indent=1), encoding="utf-8")
    from_array = read_conversations(folder / name)
    (folder / name).write_text(f"\n{json.dumps(row)}\r\n\n{json.dumps(row)}\n", encoding="utf-8")
    assert read_conversations(folder / name) == from_array


def test_line_separators_inside_text_do_not_end_a_row(folder):
    messages = [{"role": "user", "content": "one\u2028two"}, {"role": "assistant", "content": "x\u0085y"}]
    (folder / "rows.jsonl").write_text(json.dumps({"messages": messages}, ensure_ascii=False), encoding="utf-8")
    (conversation,) = read_conversations(folder / "rows.jsonl")
    assert conversation.turns == (Turn(question="one\u2028two", answer="x\u0085y"),)


def test_a_character_of_two_escapes_is_one_character(folder):
    row = messages(("user", "\U0001f600"), ("assistant", "b"))
    assert "\\ud83d" in json.dumps(row)
    assert read(folder, row)[0].turns[0].question == "\U0001f600"


def test_a_folder_stands_for_its_data_file(folder):
    row = {"conversations": TURN, "image": "a.png"}
    assert read(folder, row, name="train.json") == read_conversations(folder)
    read(folder, row, name="other.json")
    with pytest.raises(DataError, match=r"found other.json, train.json; give the file itself"):
        read_conversations(folder)
    read(folder, row, row, name="data.jsonl")
    assert len(read_conversations(folder)) == 2


def test_another_image_folder(folder):
    (folder / "rows.json").write_text(json.dumps([{"conversations": TURN, "image": "b.png"}]), encoding="utf-8")
    assert len(read_conversations(folder / "rows.json", folder / "sub")) == 1
    with pytest.raises(DataError, match="no such image folder"):
        read_conversations(folder / "rows.json", folder / "nowhere")


def messages(*pairs):
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


GOOD = {"conversations": TURN, "image": "a.png"}
BAD_ROWS = {
    "no object": (["list"], "expected a JSON object"),
    "no messages": ({"question": "a", "answer": "b"}, "'messages'.*found keys question, answer"),
    "both keys": ({**GOOD, **messages(("user", "a"))}, "found both"),
    "empty list": ({"conversations": []}, "expected a list of messages"),
    "message is text": ({"conversations": ["hello"]}, r"conversations\[0\]: expected an object with 'from'"),
    "mixed keys": ({"messages": [{"role": "user", "value": "a"}]}, r"messages\[0\]: expected an object"),
    "unknown role": (
        messages(("user", "a"), ("tool", "b")),
        r"messages\[1\], key 'role': expected one of human.*'tool'",
    ),
    "number as text": (messages(("user", 3), ("assistant", "b")), "expected text or a list of parts, found 3"),
    "unknown part": (messages(("user", [{"type": "video"}]), ("assistant", "b")), "part 0: expected type 'text'"),
    "pixels as part": (
        messages(("user", [{"type": "image", "image": [1]}]), ("assistant", "b")),
        "expected the path of an image",
    ),
    "two paths": (
        messages(("user", [{"type": "image", "image": "a.png", "path": "a.png"}]), ("assistant", "b")),
        "at most one path",
    ),
    "two answers": (messages(("user", "a"), ("assistant", "b"), ("assistant", "c")), "user and assistant by turns"),
    "no answer": (messages(("user", "a")), "ending with assistant, found user"),
    "only a system text": (messages(("system", "a")), "found no message"),
    "empty answer": (messages(("user", "a"), ("assistant", " ")), "answer 1: is empty"),
    "image in an answer": (messages(("user", "a"), ("assistant", "<image>")), "answer 1: holds <image>"),
    "system twice": ({"system": "a", **messages(("system", "b"), ("user", "a"))}, "keep one of them"),
    "image in the system text": (messages(("system", "<image>"), ("user", "a")), "system text without images"),
    "placeholder without image": ({"conversations": TURN}, "1 <image> placeholders for 0 images"),
    "two images, one placeholder": ({"conversations": TURN, "images": ["a.png"] * 2}, "1 <image> placeholders for 2"),
    "image twice": ({**GOOD, "images": ["a.png"]}, "both under 'image' and under 'images'"),
    "image is a number": ({"conversations": TURN, "image": 3}, "expected the path of an image"),
    "part and list": (
        {
            "images": ["a.png"],
            **messages(("user", [{"type": "image", "path": "a.png"}]), ("assistant", "b")),
        },
        "1 of 1 image parts name their file and the row lists 1 more",
    ),
    "id is a list": ({**GOOD, "id": []}, "key 'id': expected text or a whole number"),
    "video": ({**GOOD, "videos": ["v.mp4"]}, "only images can be read"),
    "missing image": ({**GOOD, "image": "c.png"}, "'c.png' is not in the image folder"),
    "folder as image": ({**GOOD, "image": "sub"}, "'sub' is not in the image folder"),
    "parent folder": ({**GOOD, "image": "../outside.png"}, "leads out of the image folder"),
    "roundabout": ({**GOOD, "image": "sub/../../outside.png"}, "leads out of the image folder"),
    "web address": ({**GOOD, "image": "https://example.org/a.png"}, "is no file; download it"),
    "null character": ({**GOOD, "image": "a\u0000.png"}, "is no path"),
    "half a character": (messages(("user", "a"), ("assistant", "b\ud800")), r"holds \\ud800, one half of a character"),
    "half an id": ({**GOOD, "id": "\udfff"}, r"holds \\udfff"),
    "halves in wrong order": (messages(("user", "\ude00\ud83d"), ("assistant", "b")), r"holds \\ude00"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row_is_an_error_that_names_file_and_line(folder, case):
    row, message = BAD_ROWS[case]
    with pytest.raises(DataError, match=message) as caught:
        read(folder, GOOD, row)
    assert str(caught.value).startswith(f"{folder / 'rows.jsonl'}, line 2")
    assert "\n" not in str(caught.value)
    (folder / "rows.json").write_text(json.dumps([GOOD, row]), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_conversations(folder / "rows.json")
    assert str(caught.value).startswith(f"{folder / 'rows.json'}, record 2")


def test_absolute_path_and_link_out_of_the_folder(folder):
    outside = folder.parent / "outside.png"
    (folder / "link.png").symlink_to(outside)
    (folder / "inner.png").symlink_to(folder / "a.png")
    for name in (str(outside), outside.as_uri(), "link.png", f"file://{folder}/../outside.png"):
        with pytest.raises(DataError, match="leads out of the image folder"):
            read(folder, {**GOOD, "image": name})
    assert read(folder, {**GOOD, "image": "inner.png"})[0].images == ((folder / "a.png").resolve(),)


def test_whole_paths_and_file_addresses_into_the_folder_are_read(folder):
    Image.new("RGB", (2, 2)).save(folder / "sub" / "b c%.png")
    path = folder / "sub" / "b c%.png"
    for name in (str(path), path.as_uri(), f"file://localhost{path.as_uri()[7:]}", "file://sub/b%20c%25.png"):
        assert read(folder, {**GOOD, "image": name})[0].images == (path.resolve(),)
    with pytest.raises(DataError, match="is not in the image folder"):
        read(folder, {**GOOD, "image": (folder / "none.png").as_uri()})
    with pytest.raises(DataError, match=r"is no path .File name too long"):
        read(folder, {**GOOD, "image": "a" * 5000})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n', r"rows.jsonl, line 2, column \d+: not valid JSON"),
        (b'[{"a": 1},\n {"a" 1}]', r"rows.jsonl, line 2, column \d+: not valid JSON"),
        (b'"text"', r"line 1: expected a JSON object, found 'text'"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"[" * 100_000, "JSON that cannot be read"),
    ],
)
def test_bad_file_names_line_and_column(folder, content, message):
    (folder / "rows.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_rows(folder / "rows.jsonl"))


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_conversations(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="found none"):
        read_conversations(tmp_path)
