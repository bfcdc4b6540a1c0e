"""Scripts in findings/ have the form that CONTRIBUTING.md states; they install packages, so they are run by hand."""

import re
import stat
import subprocess
from pathlib import Path

import pytest

FINDINGS = Path(__file__).parents[2] / "findings"
SCRIPTS = sorted(FINDINGS.glob("*.sh"))
MOST_LINES = 80
INSTALL = re.compile(r"^venv/bin/pip install -q (.+)$", re.MULTILINE)
PINNED = re.compile(r"[A-Za-z0-9_.-]+==([0-9][A-Za-z0-9.]*)")


def comments(text: str) -> str:
    """The comments at the top, without the first line."""
    lines = text.split("\n")[1:]
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def problems(text: str) -> list[str]:
    """What is wrong with the form of a script."""
    head, installed = comments(text), [word for line in INSTALL.findall(text) for word in line.split()]
    versions = [PINNED.fullmatch(word) for word in installed]
    found = [
        (text.startswith("#!/usr/bin/env bash\n#"), "begins with a comment"),
        (text.count("\n") < MOST_LINES, f"fewer than {MOST_LINES} lines"),
        (
            all(f"# {word}: " in head for word in ("Seen", "Input", "Behaviour", "Output")),
            "Seen, Input, Behaviour, Output",
        ),
        (re.search(r"# Seen: \d{4}-\d{2}-\d{2}, Python 3\.\d+", head) is not None, "date and Python"),
        (
            "set -euo pipefail\nfolder=$(mktemp -d)\ntrap 'rm -rf \"$folder\"' EXIT\ncd" in text,
            "a folder that is removed",
        ),
        ("python3 -m venv venv\n" in text, "an environment of its own"),
        (bool(installed) and all(versions), "pinned packages alone"),
        (text.count("pip install") == len(INSTALL.findall(text)), "no other installation"),
        (all(version is None or version[1] in head for version in versions), "all versions in the comments"),
        ("assert " in text and "print(" in text, "prints and asserts"),
        ("textanchor" not in text, "nothing of ours"),
    ]
    return [what for is_so, what in found if not is_so]


def test_there_are_some() -> None:
    assert len(SCRIPTS) >= 8


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_has_the_form(script: Path) -> None:
    assert problems(script.read_text(encoding="utf-8")) == []
    assert script.stat().st_mode & stat.S_IXUSR
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_the_page_lists_all_of_them_and_tests_that_exist() -> None:
    page = (FINDINGS / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\1\.sh\) \|(.*)$", page, re.MULTILINE))
    assert sorted(rows) == [script.stem for script in SCRIPTS]
    for name, row in rows.items():
        versions = row.split(" | ")[1]
        text = (FINDINGS / f"{name}.sh").read_text(encoding="utf-8")
        assert all(version in text for version in re.findall(r"\d+\.\d+\.\d+", versions)), name
        for test in re.findall(r"`(tests/[\w/]+\.py)`", row):
            assert (FINDINGS.parent / test).is_file(), test


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("peft==0.21.2", "peft", "pinned packages alone"),
        ("peft==0.21.2", "peft>=0.21", "pinned packages alone"),
        ("peft 0.21.2", "peft", "all versions in the comments"),
        ("# Output: ", "# ", "Seen, Input, Behaviour, Output"),
        ("import torch", "import textanchor", "nothing of ours"),
        ("venv/bin/python -", "pip install other\nvenv/bin/python -", "no other installation"),
    ],
)
def test_another_form_is_noticed(old: str, new: str, told: str) -> None:
    text = (FINDINGS / "adapter_beside_merged_weights.sh").read_text(encoding="utf-8")
    assert old in text
    assert problems(text.replace(old, new)) == [told]
