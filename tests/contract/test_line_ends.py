"""Lines of files end with a line feed alone: `splitlines` also breaks at U+2028 and others, inside of JSON."""

import ast
from pathlib import Path

import pytest


def calls_of_splitlines(file: Path) -> list[int]:
    """Line numbers."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "splitlines"]


@pytest.mark.parametrize("folder", ["src", "experiments"])
def test_no_file_is_cut_by_splitlines(repository: Path, folder: str) -> None:
    files = sorted((repository / folder).rglob("*.py"))
    assert files
    found = [f"{file.relative_to(repository)}:{line}" for file in files for line in calls_of_splitlines(file)]
    assert not found, f"use textanchor.files.lines_of, or read_rows for JSON lines: {', '.join(found)}"


def test_the_search_finds_a_call(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ny = 'a'.splitlines()\n")
    assert calls_of_splitlines(tmp_path / "a.py") == [2]
