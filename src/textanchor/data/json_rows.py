"""Rows of a JSON or JSONL file, each with its place, so that an error can name file and line or record."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from textanchor.errors import DataError

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


def read_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of every row: objects of a JSON array, or one object on each line, whatever the suffix says.

    DataError, naming the place, for a file that cannot be read, text that is not JSON and rows that are no objects.
    """
    text = _text(file)
    if text.lstrip().startswith("["):
        rows = ((f"{file}, record {i}", row) for i, row in enumerate(_parsed(str(file), text), start=1))
    else:
        # not splitlines: JSON strings may hold U+2028 and other characters that it would break at
        lines = ((f"{file}, line {i}", line) for i, line in enumerate(text.split("\n"), start=1) if line.strip())
        rows = ((place, _parsed(place, line)) for place, line in lines)
    for place, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected a JSON object, found {json.dumps(row)[:60]}")
        yield place, row


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # with or without the mark that Windows editors write
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the path") from error


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text else ""
        raise DataError(
            f"{place}{line}, column {error.colno}: not valid JSON ({error.msg}); expected one JSON array of objects "
            "in the file, or one whole object on each line"
        ) from error
    except (ValueError, RecursionError) as error:  # an absurdly long number, absurdly deep brackets
        raise DataError(f"{place}: JSON that cannot be read ({error}); mend or remove this part") from error
