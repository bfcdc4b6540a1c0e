"""The journal: what was written is there again, what was torn by a kill is not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from textanchor.errors import DataError, OutputError
from textanchor.evaluation.journal import Journal


def test_entries_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    journal = Journal(path)
    assert journal.take(["a"]) is None
    journal.keep({"a": [0.1, 2.0], "b": "naïve\u2028text"})
    journal.keep({"c": {"nats": 1e-17}})
    again = Journal(path)
    assert len(again) == 3
    assert again.take(["c", "a", "b"]) == [{"nats": 1e-17}, [0.1, 2.0], "naïve\u2028text"]
    assert again.take(["a", "missing"]) is None, "all or nothing"


def test_a_torn_line_is_cut_off_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).keep({"a": 1, "b": 2})
    path.write_bytes(path.read_bytes()[:-4])
    journal = Journal(path)
    assert journal.take(["a"]) == [1]
    assert journal.take(["b"]) is None
    journal.keep({"b": 3})
    assert Journal(path).take(["a", "b"]) == [1, 3]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: b"nonsense",
        lambda line: line.replace(b"2.5", b"2.6"),
        lambda line: line[9:],
        lambda line: b"\xff" + line,
        lambda line: line + b" ",
        lambda line: b"",
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).keep({"a": 1, "b": [2.5, None], "c": "x"})
    first, second, third = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, damage(second), third, b""]))
    with pytest.raises(DataError, match=r"journal\.jsonl, line 2: was changed since it was written; remove the file"):
        Journal(path)


def test_a_journal_that_cannot_grow_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file/journal\.jsonl: cannot be written"):
        Journal(tmp_path / "file" / "journal.jsonl").keep({"a": 1})
