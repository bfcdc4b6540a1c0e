"""What the scripts beside the package import from it is there: most of them run in no test."""

import ast
from pathlib import Path

import pytest

FOLDERS = ("benchmarks", "docs", "examples", "experiments")


def names_in(path: Path) -> set[str]:
    """Every name that a module binds, in whatever block."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def missing_in(script: Path, source: Path) -> list[str]:
    """The imports of ours in a script that lead nowhere."""
    missing = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("textanchor."):
            place = source.joinpath(*str(node.module).split("."))
            own = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            bound = names_in(own) if own.is_file() else set()
            modules = {path.stem for path in place.iterdir()} if place.is_dir() else set()
            missing += [f"{node.module}.{a.name}" for a in node.names if a.name not in bound | modules]
    return missing


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_of_scripts_are_there(folder: str, repository: Path) -> None:
    scripts = sorted((repository / folder).rglob("*.py"))
    assert scripts
    found = {str(path.relative_to(repository)): missing_in(path, repository / "src") for path in scripts}
    assert {name: missing for name, missing in found.items() if missing} == {}


def test_a_planted_import_is_seen(tmp_path: Path, repository: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from textanchor.tables import Table, nothing\nfrom textanchor.none import x\n")
    assert missing_in(script, repository / "src") == ["textanchor.tables.nothing", "textanchor.none.x"]
