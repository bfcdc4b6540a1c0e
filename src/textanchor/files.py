"""Files that are written whole or not at all, JSON with errors that name the place, checksums, and the cache folder."""

import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textanchor.errors import DataError, OutputError, TextanchorError
from textanchor.outputs import REPLACED, claimed, folder_made, require_free_directory, temporary_sibling, writing

CACHE_VARIABLE = "TEXTANCHOR_CACHE"
OTHER_CACHE = f"or set {CACHE_VARIABLE} to a folder that can be written"
"""Way out where the cache cannot be."""
SEAL = "seal"
MOST_LEVELS = 50
"""Of values in values in a file; more is a slip, and what walks through it would run out of stack."""
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""One half of a character beyond U+FFFF; by itself it is in no text that could be tokenized or written."""
ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""What JSON writes for a half; two of them make a character."""


@contextmanager
def atomic_file(path: Path | str, *, num_bytes: int | None = None) -> Iterator[Path]:
    """A temporary sibling of `path` to write to; it takes the name `path` on success and is removed on error.

    Nothing but writing belongs into it: OutputError where the system refuses, with `num_bytes`, the file's size.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: expected a file to write, found a folder; give the name of a file in it")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is a device or a pipe, which a file would take the place of; give another name")
    temporary = temporary_sibling(path)
    with folder_made(path.parent, path), writing(path, num_bytes=num_bytes):
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling folder to fill; it takes the name `path` on success and is removed on error.

    The place is claimed meanwhile. An existing folder that is not empty is replaced only with `overwrite`; otherwise
    OutputError, before any work.
    """
    with claimed(path) as place:
        require_free_directory(path, overwrite=overwrite)
        if place == Path.cwd() or os.path.ismount(place):
            raise OutputError(
                f"{path}: is the folder you are in, or a mounted volume, and the output is put in a folder's place as "
                "a whole; give the name of a new folder in it"
            )
        temporary = temporary_sibling(place)
        with writing(path):
            temporary.mkdir()
        try:
            yield temporary
            with writing(path):
                _put_in_place(temporary, place, overwrite=overwrite)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(source: Path, target: Path, *, overwrite: bool) -> None:
    if not overwrite and target.exists():
        target.rmdir()  # it was empty; if it is no longer, somebody else wrote there, and that stays
    if not target.exists():
        source.rename(target)
        return
    old = temporary_sibling(target, REPLACED)  # a folder cannot be renamed onto one with content: that steps aside
    target.rename(old)
    try:
        source.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def write_json(path: Path | str, obj: Any) -> None:
    """Write `obj` as strict JSON (no NaN, no infinity: TextanchorError naming the key); paths become strings."""
    write_text(path, _as_json(path, obj))


def write_sealed_json(path: Path | str, values: Mapping[str, Any]) -> None:
    """The same for what only textanchor reads again: with a checksum, so that no change passes unseen."""
    plain = json.loads(_as_json(path, values))
    write_json(path, {**plain, SEAL: sha256_of_json(plain)})


def _as_json(path: Path | str, obj: Any) -> str:
    try:
        return json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
    except ValueError as error:
        place = _first_non_finite(obj, "")
        if place is None:
            raise
        raise TextanchorError(f"{path}: {place} is not a finite number, which JSON cannot hold") from error


def read_sealed_json(path: Path | str, way_out: str) -> dict[str, Any]:
    """What `write_sealed_json` wrote; DataError with `way_out` where it is missing or was changed in any way."""
    values = read_json(path)
    seal = values.pop(SEAL, None) if isinstance(values, dict) else None
    if seal is None or seal != sha256_of_json(values):
        raise DataError(
            f"{path}: not as this version of textanchor wrote it (damaged, edited, or of another version); {way_out}"
        )
    return values


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 file with "\\n" at line ends, whole or not at all; OutputError where the system refuses."""
    content = text.encode()
    with atomic_file(path, num_bytes=len(content)) as temporary:
        temporary.write_bytes(content)


def read_text(path: Path | str) -> str:
    """Content of a UTF-8 file, with or without the mark that Windows editors write; DataError where it is none."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, which end with "\n" alone; `splitlines` also breaks at U+2028 and others in JSON."""
    return text.removesuffix("\n").split("\n")


def read_json(path: Path | str) -> Any:
    """Content of a JSON file; DataError naming file, line and column where it is missing or not JSON."""
    text = read_text(path)
    content = parse_json(str(path), text)
    if ESCAPED_HALF.search(text):
        require_whole_characters(str(path), content)
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(MOST_LEVELS):
        lists = (value.values() if isinstance(value, dict) else value for value in level)
        level = [entry for values in lists for entry in values if isinstance(entry, dict | list)]
    if level:
        raise DataError(f"{path}: nested deeper than {MOST_LEVELS} levels; check the path")
    return content


def parse_json(place: str, text: str, *, is_line: bool = False) -> Any:
    """What a JSON text stands for; DataError naming its place (which tells the line if it `is_line`) if it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = "" if is_line else f", line {error.lineno}"
        raise DataError(f"{place}{line}, column {error.colno}: not valid JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise DataError(f"{place}: JSON that cannot be read ({error})") from error


def require_whole_characters(place: str, content: Any) -> None:
    """DataError where a text in JSON `content` holds half of a character, which could not be written."""
    if found := HALF_CHARACTER.search(json.dumps(content, ensure_ascii=False)):
        raise DataError(
            f"{place}: holds \\u{ord(found[0]):x}, one half of a character that JSON writes as two escapes, so it is "
            "no text; write the character itself or both halves, or leave it out"
        )


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON; convert it to a plain value first")


def _first_non_finite(value: Any, place: str) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return place or "the value"
    if isinstance(value, Mapping):
        entries = [(f"{place}.{key}".lstrip("."), entry) for key, entry in value.items()]
    elif isinstance(value, list | tuple):
        entries = [(f"{place}[{i}]", entry) for i, entry in enumerate(value)]
    else:
        return None
    found = (_first_non_finite(entry, name) for name, entry in entries)
    return next((name for name in found if name is not None), None)


def sha256_of_file(path: Path | str) -> str:
    """Hexadecimal SHA-256 of the bytes of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(obj: Any) -> str:
    """Hexadecimal SHA-256 of `obj` as JSON with sorted keys, so that equal content has an equal hash."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_sources(files: Iterable[Path], root: Path) -> str:
    """One SHA-256 of several files, by their paths below `root`, in whatever order they are given."""
    named = sorted((file.relative_to(root).as_posix(), file) for file in files)
    return sha256_of_json([[name, sha256_of_file(file)] for name, file in named])


def cache_dir() -> Path:
    """Folder for what textanchor downloads or builds once: TEXTANCHOR_CACHE, or the platform's user cache.

    OutputError where the former is of a user who is not there.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        try:
            return Path(chosen).expanduser()
        except RuntimeError as error:
            raise OutputError(
                f"{CACHE_VARIABLE}={chosen}: nobody of that name has a home folder here; set it to another folder"
            ) from error
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "textanchor"
