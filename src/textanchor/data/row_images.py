"""The images that a row of a data file names, and where their files lie; nothing that names one is passed over."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from textanchor.data.image_tags import MarkedText, count_loose_marks, joined, mark_images, mark_loose
from textanchor.data.items import PLACEHOLDER, ImageSource
from textanchor.errors import DataError, shown

IMAGE_KEYS = ("image", "images")
PATH_KEYS = ("path", "image", "url", "file_name")
"""Where an object that stands for an image has its path."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_NAMES_AN_IMAGE = re.compile(r"image|img|photo|picture", re.IGNORECASE)
_FREE_TEXT = (
    *("id", "task", "split", "text", "question", "answer", "system", "choices", "objects", "captions"),
    *("role", "content", "from", "value"),
)
"""Keys whose values may end like the name of an image file and be something else."""


def listed_images(place: str, row: dict[str, Any]) -> list[str]:
    """Paths under `image` or `images`, as written: text, a list of it, or objects with a `path`; an empty one is none.

    DataError where they are something else, or under both keys.
    """
    by_key = {key: names for key in IMAGE_KEYS if (names := image_names(place, key, row.get(key)))}
    if len(by_key) > 1:
        raise DataError(f"{place}: images both under 'image' and under 'images'; keep one of them")
    return next(iter(by_key.values()), [])


def require_none_overlooked(place: str, row: dict[str, Any]) -> None:
    """Raise DataError where a key that is not read names an image, for rows in which none was found."""
    for key, value in row.items():
        if key not in IMAGE_KEYS and _names_an_image(key, value):
            raise DataError(
                f"{place}, key {key!r}: {shown(value)} seems to name an image, but images are read under 'image' and "
                "'images'; put its path there, or remove the key"
            )


def shown_images(
    place: str, row: dict[str, Any], texts: Sequence[MarkedText], folder: Path
) -> tuple[list[str], tuple[Path, ...]]:
    """The texts that the row's images are shown in, with `<image>` in the place of each, and the images in that order.

    Where no text has a place for one, all images come first. DataError where places and images do not match.
    """
    listed = listed_images(place, row)
    written = [text.text for text in texts]
    marks = [path for text in texts for path in text.paths]
    if not marks and (num_loose := sum(map(count_loose_marks, written))):
        if num_loose == len(listed):
            written, marks = list(map(mark_loose, written)), [None] * num_loose
        elif not listed and not any(key in row for key in IMAGE_KEYS):
            raise DataError(
                f"{place}: seems to mark an image, but names none; put its path under 'image', or say that there is "
                'none by "images": []'
            )
    named = [path for path in marks if path is not None]
    if named and (listed or len(named) < len(marks)):
        raise DataError(
            f"{place}: {len(named)} of {len(marks)} image parts name their file and the row lists {len(listed)} more; "
            "name all files in the parts, or all in 'images'"
        )
    sources = named or listed
    if marks and len(marks) != len(sources):
        raise DataError(
            f"{place}: {len(marks)} {PLACEHOLDER} placeholders for {len(sources)} images; write one for each image, or "
            "none to put all images first"
        )
    numbers = [number for text in texts for number in text.numbers]
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(sources))):
        raise DataError(
            f"{place}: its texts show the images in the order {', '.join(map(str, numbers))}; list and number them in "
            "the order in which they are shown"
        )
    return written, tuple(image_path(place, name, folder) for name in sources)


def with_own_images(place: str, text: MarkedText, message: dict[str, Any]) -> MarkedText:
    """The text of a message with the images that stand under the message's own keys, in its places or before it."""
    own = listed_images(place, message)
    if not own or text.paths == (None,) * len(own):
        return replace(text, paths=tuple(own) or text.paths)
    return joined([*(MarkedText(PLACEHOLDER, (name,)) for name in own), text])


def marker(row: dict[str, Any], folder: Path) -> Callable[[str], MarkedText]:
    """`mark_images` for the texts of a row: in one that has a key for images, HTML and Markdown are text."""

    def is_file(name: str) -> bool:
        try:
            return image_path("", name, folder).is_file()
        except DataError:
            return False

    has_key = any(key in row for key in IMAGE_KEYS)
    return lambda text: mark_images(text, (lambda _: False) if has_key else is_file)


def require_no_image(place: str, what: str, text: str) -> None:
    """Raise DataError where a text that the model shall write holds an image, or the tags of one."""
    marked = mark_images(text, lambda _: False)
    names = [path for path in marked.paths if path is not None and path.lower().endswith(IMAGE_SUFFIXES)]
    if PLACEHOLDER in text or names:
        raise DataError(
            f"{place}, {what}: holds {names[0] if names else PLACEHOLDER}; it is text that the model shall write, so "
            "remove the image from it"
        )


def image_names(place: str, key: str, value: Any) -> list[str]:
    """Paths under one key, as written; DataError where they are none."""
    values = value if isinstance(value, list) else [value]
    names = [_name(entry) for entry in values]
    if not any(names) and all(_is_empty(entry) for entry in values):
        return []
    if not all(names):
        raise DataError(
            f"{place}, key {key!r}: expected the path of an image, or a list of paths, found {shown(value)}"
        )
    return [name for name in names if name is not None]


def _name(entry: Any) -> str | None:
    if isinstance(entry, dict):  # as the Hugging Face datasets library writes images, and OpenAI's messages
        found = [entry[key] for key in PATH_KEYS if not _is_empty(entry.get(key))]
        entry = found[0] if len(found) == 1 else None
    return entry if isinstance(entry, str) and entry.strip() else None


def _is_empty(entry: Any) -> bool:
    return entry is None or (isinstance(entry, str) and not entry.strip()) or entry in ([], {})


def _names_an_image(key: str, value: Any) -> bool:
    """Whether a value under a key that is not read looks like an image's path or name."""
    values = value if isinstance(value, list) else [value]
    texts = [entry for entry in values if isinstance(entry, str) and entry.strip()]
    if key not in _FREE_TEXT and any(text.lower().endswith(IMAGE_SUFFIXES) for text in texts):
        return True
    is_named = _NAMES_AN_IMAGE.search(key) is not None
    return is_named and any(entry for entry in values if not isinstance(entry, bool | float))


def image_of(place: str, row: dict[str, Any], folder: Path) -> Path:
    """The one image of a row; DataError where it has none or several."""
    names = listed_images(place, row)
    if len(names) != 1:
        require_none_overlooked(place, row)
        raise DataError(f"{place}, key 'image': expected the path of an image file, found {shown(row.get('image'))}")
    return image_path(place, names[0], folder)


def name_in(folder: Path, image: Path) -> str:
    """The image's path below the folder, which is the same wherever the folder lies."""
    return image.relative_to(folder.resolve()).as_posix()


def only_image(place: str, images: Sequence[ImageSource]) -> ImageSource | None:
    """The image of a question, which has one at most; DataError for more."""
    if len(images) > 1:
        raise DataError(f"{place}: {len(images)} images, but a question is scored with one at most; leave it out")
    return images[0] if images else None


def image_path(place: str, name: str, folder: Path) -> Path:
    """Existing file below `folder`, links followed; DataError otherwise.

    `name` is relative to the folder, or a whole path or file:// address of a file in it.
    """
    path = unquote(name.removeprefix("file://").removeprefix("localhost")) if name.startswith("file://") else name
    if "://" in path or path.startswith("data:"):
        raise DataError(f"{place}: image {shown(name)} is no file; download it and give its path")
    try:
        resolved = (folder / path).resolve()
        is_inside, is_file = resolved.is_relative_to(folder.resolve()), resolved.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null character, a loop of links
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{place}: image {shown(name)} is no path ({reason}); give that of an image file") from error
    if not is_inside:
        raise DataError(
            f"{place}: image {shown(name)} leads out of the image folder {folder}; give a path in it, or name another "
            "image folder"
        )
    if not is_file:
        raise DataError(f"{place}: image {shown(name)} is not in the image folder {folder}; name the right folder")
    return resolved
