"""Conversations from the formats in which people keep them: LLaVA, ShareGPT and Hugging Face chat messages.

A row holds its messages under `conversations` or `messages`; a message is `{"from", "value"}` or `{"role", "content"}`,
and content is text or a list of parts (`{"type": "text", "text"}`, `{"type": "image"}` with or without a path). Images
stand under `image` or `images` of the row or of a message, in their parts, or between tags in the text
(`textanchor.data.image_tags`); `<image>` in a question marks the place of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textanchor.data.image_tags import MarkedText, joined
from textanchor.data.items import PLACEHOLDER, Conversation, Turn
from textanchor.data.json_rows import data_file, id_of, noting, read_rows
from textanchor.data.row_images import (
    image_names,
    marker,
    require_no_image,
    require_none_overlooked,
    shown_images,
    with_own_images,
)
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
PATH_KEYS = ("image", "path", "url", "image_url")


@dataclass(frozen=True)
class _Message:
    role: str
    content: MarkedText


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
    name = id_of(place, row, number)
    if unsupported := [key for key in UNSUPPORTED_KEYS if row.get(key)]:
        raise DataError(f"{place}: has {', '.join(unsupported)}, but only images can be read; leave the row out")
    system, messages = _system(place, row, _messages(place, row, marker(row, folder)))
    asked, answered = _by_turns(place, messages)
    questions, images = shown_images(place, row, asked, folder)
    if not images:
        for part in (row, *(message for key in MESSAGE_KEYS for message in row.get(key, ()))):
            require_none_overlooked(place, part)
    turns = tuple(Turn(question=q, answer=a) for q, a in zip(questions, answered, strict=True))
    return Conversation(id=name, turns=turns, images=images, system=system)


def _system(place: str, row: dict[str, Any], messages: list[_Message]) -> tuple[str | None, list[_Message]]:
    """System text, if any, and the messages after it."""
    system = row.get("system") or None
    if messages[0].role == "system":
        if system is not None:
            raise DataError(f"{place}: a system text both under 'system' and as first message; keep one of them")
        system, messages = messages[0].content.text, messages[1:]
    if system is not None and (not isinstance(system, str) or PLACEHOLDER in system):
        raise DataError(f"{place}: expected a system text without images, found {shown(system)}")
    return system or None, messages


def _messages(place: str, row: dict[str, Any], mark: Callable[[str], MarkedText]) -> list[_Message]:
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
    return [_message(f"{place}, {keys[0]}[{i}]", message, mark) for i, message in enumerate(messages)]


def _message(place: str, message: Any, mark: Callable[[str], MarkedText]) -> _Message:
    pairs = (("from", "value"), ("role", "content"))
    keys = next((pair for pair in pairs if isinstance(message, dict) and set(pair) <= message.keys()), None)
    if keys is None:
        raise DataError(
            f"{place}: expected an object with 'from' and 'value', or 'role' and 'content', found {shown(message)}"
        )
    role, content = message[keys[0]], message[keys[1]]
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"{place}, key {keys[0]!r}: expected one of {', '.join(ROLES)}, found {shown(role)}")
    read = mark if ROLES[role] != "assistant" else _as_written  # what a model shall write is not interpreted
    if isinstance(content, list):
        marked = joined([_part(f"{place}, part {i}", part, read) for i, part in enumerate(content)])
    elif isinstance(content, str):
        marked = read(content)
    else:
        raise DataError(f"{place}, key {keys[1]!r}: expected text or a list of parts, found {shown(content)}")
    return _Message(ROLES[role], with_own_images(place, marked, message))


def _as_written(text: str) -> MarkedText:
    return MarkedText(text)


def _part(place: str, part: Any, read: Callable[[str], MarkedText]) -> MarkedText:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return read(part["text"])
    if kind in ("image", "image_url"):
        names = [name for key in PATH_KEYS for name in image_names(place, key, part.get(key))]
        if len(names) > 1:
            raise DataError(f"{place}: expected at most one path of an image file, found {shown(part)}")
        return MarkedText(PLACEHOLDER, (names[0] if names else None,))
    raise DataError(f"{place}: expected type 'text' with text under 'text', or type 'image', found {shown(part)}")


def _by_turns(place: str, messages: list[_Message]) -> tuple[list[MarkedText], list[str]]:
    """Questions and answers."""
    roles = [message.role for message in messages]
    if not messages or roles != ["user", "assistant"] * (len(messages) // 2):
        raise DataError(
            f"{place}: expected user and assistant by turns, beginning with user and ending with assistant, found "
            f"{', '.join(roles) or 'no message'}"
        )
    answers = [message.content.text for message in messages[1::2]]
    for number, answer in enumerate(answers, start=1):
        if not answer.strip():
            raise DataError(
                f"{place}, answer {number}: is empty; an answer is text that the model shall learn to write"
            )
        require_no_image(place, f"answer {number}", answer)
    return [message.content for message in messages[0::2]], answers
