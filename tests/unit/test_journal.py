"""The journal: what was written is there again, what was torn by a kill is not."""

from pathlib import Path

import pytest

from textanchor.errors import DataError
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


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('["a", 1]\nnonsense\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 2"):
        Journal(path)
