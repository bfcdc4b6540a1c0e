"""The examples run and show what they say."""

import runpy
from pathlib import Path

import pytest


def test_plain_pytorch(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(repository / "examples" / "plain_pytorch.py"))
    report = names["handle"].audit()
    report.require_kept()
    moved = (names["projector"](names["old"]) - names["kept"]).abs().max()
    assert moved < 1e-4
    assert report.rows[0].relative_update > 0.1
    assert "9 of 65 directions" in capsys.readouterr().out
