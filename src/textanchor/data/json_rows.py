"""Rows of a JSON or JSONL file, each with its place, so that an error can name file and line or record."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textanchor.errors import DataError, shown
from textanchor.files import ESCAPED_HALF, lines_of, parse_json, read_text, require_whole_characters

SUFFIXES = (".json", ".jsonl")
PREFERRED = "data.jsonl"
MAX_NAMES = 6


def data_file(path: Path) -> Path:
    """`path` itself, or the data file in the folder `path`: `data.jsonl`, else the only *.json or *.jsonl.

    DataError where there is none or more than one to choose from.
    """
    if not path.is_dir():
        return path
    if (path / PREFERRED).is_file():
        return path / PREFERRED
    found = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
    if len(found) != 1:
        seen = (
            f"found {', '.join(found[:MAX_NAMES])}{', ...' if len(found) > MAX_NAMES else ''}"
            if found
            else "found none"
        )
        raise DataError(f"{path}: expected {PREFERRED} or one *.json or *.jsonl file, {seen}; give the file itself")
    return path / found[0]


@contextmanager
def noting(problems: list[str] | None) -> Iterator[None]:
    """A DataError inside becomes one of the problems, where there is a list of them; otherwise it is raised."""
    try:
        yield
    except DataError as error:
        if problems is None:
            raise
        problems.append(str(error))


def read_rows(file: Path, problems: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of every row: objects of a JSON array, or one object on each line, whatever the suffix says.

    DataError, naming the place, for a file that cannot be read, text that is not JSON and rows that are no objects;
    with a list of `problems`, what is wrong with single rows is added to it and the row is left out.
    """
    text = read_text(file)
    may_be_halved = ESCAPED_HALF.search(text) is not None
    if text.lstrip().startswith("["):
        for i, row in enumerate(_parsed(str(file), text), start=1):
            with noting(problems):
                yield _object(f"{file}, record {i}", row, may_be_halved=may_be_halved)
        return
    for i, line in enumerate(lines_of(text), start=1):
        if line.strip():
            place = f"{file}, line {i}"
            with noting(problems):
                yield _object(place, _parsed(place, line, is_line=True), may_be_halved=may_be_halved)


def _object(place: str, row: Any, *, may_be_halved: bool) -> tuple[str, dict[str, Any]]:
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected a JSON object, found {shown(row)}")
    if may_be_halved:
        require_whole_characters(place, row)
    return place, row


def _parsed(place: str, text: str, *, is_line: bool = False) -> Any:
    try:
        return parse_json(place, text, is_line=is_line)
    except DataError as error:
        way_out = "expected one JSON array of objects in the file, or one whole object on each line"
        raise DataError(f"{error}; {way_out}") from error


def id_of(place: str, row: dict[str, Any], number: int) -> str:
    """The row's id as text; `row-` and its number where it has none. DataError where it is something else."""
    name = row.get("id")
    if not isinstance(name, str | int | None):
        raise DataError(f"{place}, key 'id': expected text or a whole number, found {shown(name)}")
    return f"row-{number}" if name is None else str(name)


def text_of(place: str, row: dict[str, Any], key: str, what: str = "text") -> str:
    """The text under a key, without the space around it; DataError where there is none, saying that `what` is
    expected.
    """
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}, key {key!r}: expected {what}, found {shown(value)}")
    return value.strip()


def texts_of(place: str, row: dict[str, Any], key: str) -> tuple[str, ...]:
    """The texts under a key, none where it is left out; DataError where it is no list, or one of them is empty."""
    values = row.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise DataError(f"{place}, key {key!r}: expected a list of texts, found {shown(values)}")
    return tuple(value.strip() for value in values)
