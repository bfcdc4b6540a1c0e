"""What was computed so far, on disk at once: an interruption loses one batch, and asking again costs nothing.

The file is of one suite and one answerer (`textanchor.evaluation.identity`), its entries are of single questions. Each
line is the CRC-32 of an entry, a space, and the entry as JSON.
"""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textanchor.errors import DataError
from textanchor.outputs import writing


class Journal:
    """Plain values by key, in a file that only grows; a line is written whole or is not counted.

    DataError where a line was changed since it was written. One process at a time may have it: claim the file.
    """

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
        texts = [json.dumps([key, value], ensure_ascii=False).encode() for key, value in entries.items()]
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.writelines(b"%08x %s\n" % (zlib.crc32(text), text) for text in texts)


def _entries(path: Path) -> Iterable[tuple[str, Any]]:
    """Entries of the file, of which a last line without an end was torn by a kill: it is cut off."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with writing(path), path.open("r+b") as file:
            file.truncate(len(whole))
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        checksum, _, text = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            raise DataError(
                f"{path}, line {number}: was changed since it was written; remove the file, and the evaluation begins "
                "anew"
            )
        key, value = json.loads(text)
        yield key, value
