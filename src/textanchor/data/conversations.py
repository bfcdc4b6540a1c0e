"""Conversations from the formats in which people keep them: LLaVA, ShareGPT and Hugging Face chat messages.

A row holds its messages under `conversations` or `messages`; a message is `{"from", "value"}` or `{"role", "content"}`,
and content is text or a list of parts (`{"type": "text", "text"}`, `{"type": "image"}` with or without a path). Images
stand under `image` or `images`, or in their parts; `<image>` in a question marks the place of one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textanchor.data.items import PLACEHOLDER, Conversation, Turn
from textanchor.data.json_rows import data_file, image_path, noting, read_rows
from textanchor.errors import DataError, shown

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
MESSAGE_KEYS = ("conversations", "messages")
UNSUPPORTED_KEYS = ("video", "videos", "audio", "audios")
PATH_KEYS = ("image", "path", "url")


@dataclass(frozen=True)
class _Message:
    role: str
    text: str
    images: tuple[str | None, ...] = ()
    """Of each image part its path, None where the row's list of images has it."""


def read_conversations(
    path: Path | str, image_folder: Path | str | None = None, *, problems: list[str] | None = None
) -> list[Conversation]:
    """All conversations of a JSON or JSONL file, or of the one such file in a folder.

    Image paths are relative to `image_folder` (default: the folder of the file), must exist and may not leave it.
    DataError names file, line or record, what was expected and the way out; with a list of `problems`, that text is
    added to it instead and the row is left out.
    """
    file = data_file(Path(path))
    folder = Path(image_folder) if image_folder is not None else file.parent
    if not folder.is_dir():
        raise DataError(f"{folder}: no such image folder; give the folder that the image paths in {file} begin from")
    conversations = []
    for number, (place, row) in enumerate(read_rows(file, problems), start=1):
        with noting(problems):
            conversations.append(conversation(place, row, folder, number))
    return conversations


def is_conversation(row: dict[str, Any]) -> bool:
    """Whether the row holds messages."""
    return any(key in row for key in MESSAGE_KEYS)


def conversation(place: str, row: dict[str, Any], folder: Path, number: int) -> Conversation:
    """The conversation in a row; DataError naming the place, what was expected and the way out."""
    if "id" in row and not isinstance(row["id"], str | int):
        raise DataError(f"{place}, key 'id': expected text or a whole number, found {shown(row['id'])}")
    if unsupported := [key for key in UNSUPPORTED_KEYS if row.get(key)]:
        raise DataError(f"{place}: has {', '.join(unsupported)}, but only images can be read; leave the row out")
    messages = _messages(place, row)
    sources = _image_names(place, row, messages)
    system, messages = _system(place, row, messages)
    turns = _turns(place, messages)
    marked = sum(turn.question.count(PLACEHOLDER) for turn in turns)
    if marked not in (0, len(sources)):
        raise DataError(
            f"{place}: {marked} {PLACEHOLDER} placeholders for {len(sources)} images; write one for each image, or "
            "none to put all images first"
        )
    images = tuple(image_path(place, name, folder) for name in sources)
    return Conversation(id=str(row.get("id", f"row-{number}")), turns=turns, images=images, system=system)


def _system(place: str, row: dict[str, Any], messages: list[_Message]) -> tuple[str | None, list[_Message]]:
    """System text, if any, and the messages after it."""
    system = row.get("system") or None
    if messages[0].role == "system":
        if system is not None:
            raise DataError(f"{place}: a system text both under 'system' and as first message; keep one of them")
        system, messages = messages[0].text, messages[1:]
    if system is not None and (not isinstance(system, str) or PLACEHOLDER in system):
        raise DataError(f"{place}: expected a system text without images, found {shown(system)}")
    return system or None, messages


def _messages(place: str, row: dict[str, Any]) -> list[_Message]:
    keys = [key for key in MESSAGE_KEYS if key in row]
    if len(keys) != 1:
        found = "both" if keys else f"keys {', '.join(map(str, row)) or 'none'}"
        raise DataError(
            f"{place}: expected a list of messages under 'conversations' (LLaVA, ShareGPT) or 'messages' (Hugging "
            f"Face), found {found}"
        )
    messages = row[keys[0]]
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{place}, key {keys[0]!r}: expected a list of messages, found {shown(messages)}")
    return [_message(f"{place}, {keys[0]}[{i}]", message) for i, message in enumerate(messages)]


def _message(place: str, message: Any) -> _Message:
    pairs = (("from", "value"), ("role", "content"))
    keys = next((pair for pair in pairs if isinstance(message, dict) and set(pair) <= message.keys()), None)
    if keys is None:
        raise DataError(
            f"{place}: expected an object with 'from' and 'value', or 'role' and 'content', found {shown(message)}"
        )
    role, content = message[keys[0]], message[keys[1]]
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"{place}, key {keys[0]!r}: expected one of {', '.join(ROLES)}, found {shown(role)}")
    if isinstance(content, str):
        return _Message(ROLES[role], content)
    if isinstance(content, list):
        return _from_parts(place, ROLES[role], content)
    raise DataError(f"{place}, key {keys[1]!r}: expected text or a list of parts, found {shown(content)}")


def _from_parts(place: str, role: str, parts: list[Any]) -> _Message:
    texts, images = [], []
    for i, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image":
            names = [part[key] for key in PATH_KEYS if part.get(key) is not None]
            if len(names) > 1 or not all(isinstance(name, str) for name in names):
                raise DataError(f"{place}, part {i}: expected at most one path of an image file, found {shown(part)}")
            texts.append(PLACEHOLDER)
            images.append(names[0] if names else None)
        else:
            raise DataError(
                f"{place}, part {i}: expected type 'text' with text under 'text', or type 'image', found {shown(part)}"
            )
    return _Message(role, "".join(texts), tuple(images))


def _image_names(place: str, row: dict[str, Any], messages: list[_Message]) -> list[str]:
    """Paths of all images as written, in the order of their places."""
    given = [row[key] for key in ("image", "images") if row.get(key) is not None]
    if len(given) > 1:
        raise DataError(f"{place}: images both under 'image' and under 'images'; keep one of them")
    listed = given[0] if given else []
    listed = [listed] if isinstance(listed, str) else listed
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise DataError(f"{place}: expected the path of an image, or a list of paths, found {shown(listed)}")
    inline = [name for message in messages for name in message.images if name is not None]
    if not inline:
        return listed
    num_parts = sum(len(message.images) for message in messages)
    if listed or len(inline) != num_parts:
        raise DataError(
            f"{place}: {len(inline)} of {num_parts} image parts name their file and the row lists {len(listed)} more; "
            "name all files in the parts, or all in 'images'"
        )
    return inline


def _turns(place: str, messages: list[_Message]) -> tuple[Turn, ...]:
    roles = [message.role for message in messages]
    if not messages or roles != ["user", "assistant"] * (len(messages) // 2):
        raise DataError(
            f"{place}: expected user and assistant by turns, beginning with user and ending with assistant, found "
            f"{', '.join(roles) or 'no message'}"
        )
    questions, answers = messages[0::2], messages[1::2]
    for i, answer in enumerate(answers):
        if PLACEHOLDER in answer.text or not answer.text.strip():
            what = f"holds {PLACEHOLDER}" if answer.text.strip() else "is empty"
            raise DataError(f"{place}, answer {i + 1}: {what}; an answer is text that the model shall learn to write")
    return tuple(Turn(question=q.text, answer=a.text) for q, a in zip(questions, answers, strict=True))
