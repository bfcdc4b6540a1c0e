"""The study that commands are killed in, and the outputs of commands that nobody killed."""

import shutil
from pathlib import Path

import pytest

from helpers.faults import Command
from helpers.study import SHORT, VERBS, write_study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and configurations, and the outputs of uninterrupted commands."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    folder.mkdir()
    write_study(folder)
    commands = {name: Command(folder, *VERBS[name].arguments) for name in SHORT}
    for name, command in commands.items():
        done = command.done()
        assert done.code == 0, f"{name}: {done.said}"
    return folder


@pytest.fixture
def place(study: Path, tmp_path: Path) -> Path:
    """The models and configurations in a folder of their own."""
    outputs = shutil.ignore_patterns(*(verb.output for verb in VERBS.values()))
    shutil.copytree(study, tmp_path / "study", ignore=outputs)
    return tmp_path / "study"
