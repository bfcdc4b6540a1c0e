"""What the documentation tells users to type exists, and its Python runs."""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

import textanchor
from helpers.tiny_llava import tiny_llava_with_processor
from textanchor.cli.main import app

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    """Content of the fenced code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def command_lines(path: Path) -> list[list[str]]:
    lines = "\n".join(blocks(path, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


COMMANDS = [(path.name, words) for path in PAGES for words in command_lines(path)]


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=lambda part: part if isinstance(part, str) else " ".join(part)
)
def test_command_exists(page: str, words: list[str]) -> None:
    checks = {"textanchor": check_verb, "make": check_target}
    assert words[0] in checks, f"{page}: the test does not know the command {words[0]!r}"
    checks[words[0]](words[1:])


def check_verb(arguments: list[str]) -> None:
    """The verb is there, it takes these options and arguments, and files of ours that are named exist."""
    group: Any = typer.main.get_command(app)
    verb = group.commands[arguments[0]]
    verb.make_context(arguments[0], arguments[1:])  # parses, and does not run
    for argument in arguments[1:]:
        if argument.endswith(".yaml"):
            assert (REPOSITORY / argument).is_file()


def check_target(arguments: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert {argument for argument in arguments if "=" not in argument} <= set(targets)


def test_table_and_times_of_the_readme_are_what_the_records_give() -> None:
    path = REPOSITORY / "docs" / "make_front_page.py"
    spec = importlib.util.spec_from_file_location("make_front_page", path)
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.front_page() == maker.README.read_text(encoding="utf-8"), "run: python docs/make_front_page.py"


def test_readme_begins_with_the_one_command() -> None:
    assert command_lines(REPOSITORY / "README.md")[0] == ["make", "demo"]


def test_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(REPOSITORY / "README.md", "python")
    monkeypatch.setattr(textanchor, "load_vlm", lambda name: tiny_llava_with_processor(), raising=False)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "multi_modal_projector.linear_2" in printed


def test_links_between_pages_lead_somewhere() -> None:
    for path in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8")):
            if not target.endswith(".png"):  # pictures are made from a run
                assert (path.parent / target).exists(), f"{path.name}: {target}"
