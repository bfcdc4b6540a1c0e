"""Faulty inputs of every verb, listed in corpus.yaml: refused in one paragraph that names the place; nothing is left.

The commands run in this process, one after another. A kind is in `helpers.faulty`; with its seed it is always the same
input, whichever others are tried.
"""

import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

import helpers.faulty.content
import helpers.faulty.kinds  # noqa: F401  they register their kinds
from helpers.faulty.fault import KINDS
from helpers.faulty.study import COMMANDS, write_sound_study

CORPUS = yaml.safe_load((Path(__file__).parent / "corpus.yaml").read_text())
CASES = [
    (kind, verb, seed) for kind, verbs in CORPUS.items() for verb, number in verbs.items() for seed in range(number)
]
PATIENCE = 20
"""Seconds in which every fault is found also on a busy machine; most take a tenth of one."""


class Hung(BaseException):
    """Not an Exception, so that no command takes it for an error of its own."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "study"
    folder.mkdir()
    write_sound_study(folder, repository / "docs" / "evidence" / "geometry" / "voc_objects.json")
    return folder


def test_the_corpus_is_complete() -> None:
    assert len(CASES) >= 300
    assert {verb for _, verb, _ in CASES} == set(COMMANDS)
    assert set(CORPUS) == set(KINDS)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("kind", "verb", "seed"), CASES)
def test_refused(
    kind: str,
    verb: str,
    seed: int,
    sound: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "study"
    shutil.copytree(sound, place)
    fault = KINDS[kind](verb, place, random.Random(f"{kind} {verb} {seed}"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, value in fault.variables:
        monkeypatch.setenv(name, value)
    before, began = _content(place), time.monotonic()
    with chdir(place / fault.folder), _patience(fault.arguments):
        code = _exit_code(fault.arguments, monkeypatch)
    told, said = capsys.readouterr()
    if fault.is_verdict and code == 3:
        assert "\nlost: " in f"\n{told}", f"{fault}: {told}"
        return
    assert code == 2, f"{fault} ended with {code}: {said[-1000:]}"
    paragraphs = [line for line in said.replace("\r", "\n").splitlines() if "error: " in line]
    assert len(paragraphs) == 1 and "Traceback" not in said, f"{fault}: {said[-1000:]}"
    assert fault.named in paragraphs[0], f"{fault}: {paragraphs[0]}"
    assert _content(place) == before, f"{fault}: something was left or changed"
    assert time.monotonic() - began < PATIENCE


def _exit_code(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    from textanchor.cli.main import main

    monkeypatch.setattr(sys, "argv", ["textanchor", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@contextmanager
def _patience(arguments: list[str]) -> Iterator[None]:
    def hung(*_: object) -> None:
        raise Hung(f"{arguments}: still at work after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _content(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file and folder below."""
    found = {path: path.lstat() for path in sorted(folder.rglob("*"))}
    return {
        str(path.relative_to(folder)): (state.st_size, 0 if path.is_dir() else state.st_mtime_ns)
        for path, state in found.items()
    }
