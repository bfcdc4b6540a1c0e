"""Files that are written whole or not at all, JSON with errors that name the place, checksums, and the cache folder."""

import hashlib
import json
import math
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textanchor.errors import DataError, TextanchorError

CACHE_VARIABLE = "TEXTANCHOR_CACHE"


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """A temporary sibling of `path` to write to; it takes the name `path` on success and is removed on error."""
    path = Path(path)
    if path.is_dir():
        raise TextanchorError(f"{path}: expected a file to write, found a folder; give the name of a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling folder to fill; it takes the name `path` on success and is removed on error.

    An existing folder that is not empty is replaced only with `overwrite`; otherwise TextanchorError, before any work.
    """
    path = Path(path)
    require_free_directory(path, overwrite=overwrite)
    temporary = _temporary_sibling(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _replace_directory(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_free_directory(path: Path, *, overwrite: bool = False) -> None:
    """Raise TextanchorError where `path` is a file, or a folder with content that may not be overwritten."""
    if path.exists() and not path.is_dir():
        raise TextanchorError(f"{path}: expected a folder to write to, found a file; choose another output folder")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise TextanchorError(f"{path}: the output folder is not empty; choose another one, or remove it first")


def _temporary_sibling(path: Path) -> Path:
    # the end of the name is kept, because writers such as matplotlib choose the format by the suffix
    return path.with_name(f".{uuid.uuid4().hex[:8]}.tmp.{path.name}")


def _replace_directory(source: Path, target: Path) -> None:
    if not target.exists():
        source.rename(target)
        return
    old = _temporary_sibling(target)  # a folder cannot be renamed onto one with content, so the old one steps aside
    target.rename(old)
    try:
        source.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def write_json(path: Path | str, obj: Any) -> None:
    """Write `obj` as strict JSON (no NaN, no infinity: TextanchorError naming the key); paths become strings."""
    try:
        text = json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError as error:
        place = _first_non_finite(obj, "")
        if place is None:
            raise
        raise TextanchorError(f"{path}: {place} is not a finite number, which JSON cannot hold") from error
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Content of a JSON file; DataError naming file, line and column where it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); is this the file you meant?") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


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
    """Folder for what textanchor downloads or builds once: TEXTANCHOR_CACHE, or the platform's user cache."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "textanchor"
