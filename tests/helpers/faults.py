"""Commands of textanchor as children of one warm process, killed or held up at a chosen moment.

A moment is a file event as Python's audit hooks tell it ("open", "os.rename", "os.mkdir", "shutil.rmtree", ...), whose
path matches a pattern: just before it happens, the child dies by SIGKILL, or waits.
"""

import gc
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "textanchor.cli.main",
        "textanchor.analysis.measure",
        "textanchor.diffs",
        "textanchor.evaluation.command",
        "textanchor.experiment.command",
        "textanchor.repairs",
        "textanchor.methods.app",
        "textanchor.training.adapt",
    ]
)
PATIENCE = 60.0
"""Seconds that nothing here takes."""


@dataclass(frozen=True)
class Moment:
    """Just before the `number`th event of that name with a path that matches."""

    event: str
    path: str
    number: int = 1


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    said: str
    """Standard output and error."""


class Command:
    """`textanchor ARGUMENTS` in the folder `place`, with a temporary folder of its own below it."""

    def __init__(
        self, place: Path, *arguments: str | Path, at: Moment | None = None, then: Literal["die", "wait"] = "die"
    ):
        self.log = Path(tempfile.mkstemp(dir=place.parent, suffix=".log")[1])
        self.reached, self.go = (self.log.with_suffix(suffix) for suffix in (".reached", ".go"))
        self.process: BaseProcess = FORKS.Process(
            target=_run, args=(place, [str(a) for a in arguments], self.log, at, then, self.reached, self.go)
        )
        self.process.start()

    def wait_until_reached(self) -> None:
        """Until the child waits at its moment."""
        until = time.monotonic() + PATIENCE
        while not self.reached.exists():
            assert self.process.is_alive() and time.monotonic() < until, self.log.read_text()
            time.sleep(0.005)

    def kill(self) -> None:
        """By SIGKILL, as a cluster or the lack of memory does it."""
        self.process.kill()

    def done(self) -> Done:
        """Let it go on where it waits, and wait for its end."""
        self.go.touch()
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"still at work after {PATIENCE} s: {self.log.read_text()}"
        return Done(self.process.exitcode, self.log.read_text(errors="replace"))


def textanchor(place: Path, *arguments: str | Path, at: Moment | None = None) -> Done:
    """Run a command to its end, or to its death at a moment."""
    return Command(place, *arguments, at=at).done()


def _run(place: Path, arguments: list[str], log: Path, at: Moment | None, then: str, reached: Path, go: Path) -> None:
    gc.freeze()  # the Trainer collects garbage, which would go through everything that was imported
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    scratch = place / "tmp"
    scratch.mkdir(exist_ok=True)
    tempfile.tempdir = str(scratch)
    os.chdir(place)
    sys.argv = ["textanchor", *arguments]
    if at is not None:
        sys.addaudithook(_hook(at, then, reached, go))
    from textanchor.cli.main import main

    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


def _hook(at: Moment, then: str, reached: Path, go: Path):
    pattern, left = re.compile(at.path), [at.number]

    def hook(event: str, values: tuple) -> None:
        # paths may hold anything, and what a hook raises would end the command
        if event != at.event or not any(pattern.search(str(value)) for value in values):
            return
        left[0] -= 1
        if left[0] != 0:
            return
        if then == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        reached.touch()
        until = time.monotonic() + PATIENCE
        while not go.exists() and time.monotonic() < until:
            time.sleep(0.005)

    return hook
