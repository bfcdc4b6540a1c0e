"""Images that stand in the text of a question, as other trainers write them: each becomes `<image>`, its path is read.

- a path between tags: `<img>a.png</img>` (Qwen-VL), `[img]a.png[/img]`, `<|vision_start|>a.png<|vision_end|>`;
- a place for an image that is listed: `<Image>`, `<image_1>`, `<ImageHere>`, `<|image_pad|>`, `<start_of_image>`;
- the same in words that people also write about: `[img]`, `{image}` and `<img>`, on a line of their own or at an end of
  the text, are places where they match the listed images;
- HTML and Markdown (`<img src="a.png">`, `![](a.png)`) are images where that file is there, and code to read elsewhere.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from textanchor.data.items import PLACEHOLDER

_WORDS = r"here|placeholder|pad|token|soft_token|context"
_TOKEN = rf"(?-i:<image>)|(?<!\w)<(?!img>)\|?(?:image|img)(?:[ _-]?(?:{_WORDS}|[0-9]+))?\|?>|<start_of_image>"
"""Not behind a word, where code has it: `List<Image>`; `<image>` as LLaVA writes it marks an image anywhere."""
_PAIRS = (
    (r"<(?:img|image|img_path|image_path)>", rf"{_TOKEN}|\./", r"</(?:img|image|img_path|image_path)>"),
    (r"\[(?:img|image)\]", r"", r"\[/(?:img|image)\]"),
    (r"<\|vision_start\|>", r"(?:<\|image_pad\|>)*", r"<\|vision_end\|>"),
    (r"<\|begin_of_image\|>", r"(?:<\|image\|>)*", r"<\|end_of_image\|>"),
    (r"<start_of_image>", r"(?:<image_soft_token>)*", r"<end_of_image>"),
    (r"<im_start>", _TOKEN, r"<im_end>"),
)
"""Begin, what stands for a listed image, end; between them is that, or a path."""
_PATH = r"[^\n<>]{0,1000}?"
_PAIRED = "|".join(rf"{begin}(?:(?:{token})|(?P<path{i}>{_PATH})){end}" for i, (begin, token, end) in enumerate(_PAIRS))
_HTML = r"<img\s[^<>]{0,1000}?\bsrc\s*=\s*[\"']?(?P<html>[^\"'<>\s]+)[^<>]{0,1000}>"
_MARKDOWN = r"!\[[^\]\n]{0,1000}\]\((?P<markdown>[^()\s]+)[^()\n]{0,1000}\)"
_TAG = re.compile(rf"{_PAIRED}|(?P<token>{_TOKEN})|{_HTML}|{_MARKDOWN}", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+")
_BRACKETS = r"\[(?:img|image)\]|\{(?:img|image)\}"
_LOOSE = re.compile(
    rf"^[ \t]*(?:<img>|{_BRACKETS})(?=[ \t]*$)|\A\s*(?:<img>|{_BRACKETS})|(?:{_BRACKETS})(?=\s*\Z)",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class MarkedText:
    """A text with `<image>` in the place of every image that it shows."""

    text: str
    paths: tuple[str | None, ...] = ()
    """Of each `<image>` the path that stood there; None for a place of a listed image."""
    numbers: tuple[int, ...] = ()
    """Which of the listed images the numbered places name."""


def mark_images(text: str, is_file: Callable[[str], bool]) -> MarkedText:
    """The text with its tags replaced; `is_file` says whether a name is one of an existing image."""
    paths: list[str | None] = []
    numbers: list[int] = []

    def placed(match: re.Match[str]) -> str:
        groups = match.groupdict()
        code = groups["html"] or groups["markdown"]
        if code is not None and not is_file(code):
            return match[0]
        inside = next((path for i in range(len(_PAIRS)) if (path := groups[f"path{i}"])), "").strip()
        paths.append(code or inside or None)
        numbers.extend(int(number) for number in _NUMBER.findall(groups["token"] or ""))
        return PLACEHOLDER

    return MarkedText(_TAG.sub(placed, text), tuple(paths), tuple(numbers))


def joined(parts: Iterable[MarkedText]) -> MarkedText:
    """Texts as one."""
    parts = list(parts)
    return MarkedText(
        "".join(part.text for part in parts),
        tuple(path for part in parts for path in part.paths),
        tuple(number for part in parts for number in part.numbers),
    )


def count_loose_marks(text: str) -> int:
    """How many of `[img]`, `{image}` and `<img>` stand where an image could be meant."""
    return len(_LOOSE.findall(text))


def mark_loose(text: str) -> str:
    """The text with those marks as `<image>`."""
    return _LOOSE.sub(PLACEHOLDER, text)
