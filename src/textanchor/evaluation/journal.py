"""What was computed so far, on disk at once: an interruption loses one batch, and asking again costs nothing.

The file is of one suite and one answerer (`textanchor.evaluation.identity`), its entries are of single questions.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textanchor.errors import DataError

TORN = "remove the file, and the evaluation begins anew"


class Journal:
    """Plain values by key, in a file that only grows; a line is written whole or is not counted."""

    def __init__(self, path: Path):
        self.path = path
        self._values: dict[str, Any] = dict(_entries(path)) if path.is_file() else {}

    def __len__(self) -> int:
        return len(self._values)

    def take(self, keys: Sequence[str]) -> list[Any] | None:
        """The values of the keys; None where one of them is not there."""
        return [self._values[key] for key in keys] if all(key in self._values for key in keys) else None

    def keep(self, entries: Mapping[str, Any]) -> None:
        """Write the entries; they are with the operating system when this returns."""
        self._values.update(entries)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps([key, value], ensure_ascii=False) + "\n" for key, value in entries.items())


def _entries(path: Path) -> Iterable[tuple[str, Any]]:
    """Entries of the file, of which a last line without an end was torn by a kill: it is cut off."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], start=1):
        try:
            key, value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: no entry of a journal ({error}); {TORN}") from error
        yield key, value
