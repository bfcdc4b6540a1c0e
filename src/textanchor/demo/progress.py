"""How far the demo is and how long it still takes: one line that moves on a terminal, plain lines everywhere else."""

import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

SECONDS_BETWEEN_LINES = 15.0
"""Where the output is no terminal."""


class DemoProgress:
    """Phases with the seconds that each is expected to take; what has passed corrects what is still to come."""

    def __init__(self, console: Console) -> None:
        self._console, self._began = console, time.monotonic()
        self._status: Status | None = None
        self._expected: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._current, self._share, self._planned_at, self._last_line = "", 0.0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def expect(self, expected: Mapping[str, float]) -> None:
        """Phases to come, with their expected seconds."""
        self._expected, self._planned_at = dict(expected), self.seconds

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(f"[dim]{_clock(self.seconds)}[/]  {text}", soft_wrap=True)
        self._last_line = self.seconds

    @contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        """One of the expected phases, told by `text`."""
        self._current, self._share, began = name, 0.0, self.seconds
        self.say(text)
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        try:
            yield
        finally:
            if self._status is not None:
                self._status.stop()
                self._status = None
        self._took[name] = self.seconds - began

    def advance(self, done: float, total: float, what: str) -> None:
        """So much of the phase is done; `what` is its unit in words ("step 3 of 64")."""
        self._share = min(done / total, 1.0)
        line = f"{what}, {_in_words(self.seconds_left)} to the report"
        if self._status is not None:
            self._status.update(line)
        elif self.seconds - self._last_line >= SECONDS_BETWEEN_LINES:
            self.say(line)

    def told(self) -> dict[str, dict[str, float | None]]:
        """Seconds of each phase that has ended, expected (None where nothing was) and taken."""
        return {name: {"expected": self._expected.get(name), "taken": took} for name, took in self._took.items()}

    @property
    def seconds_left(self) -> float:
        """Expected seconds of what is to come, times how much longer the past took than was expected."""
        left, past = sum(self._expected.values()) - self._past, self._past
        if past < 10:  # too little to learn from
            return left
        return left * (self.seconds - self._planned_at) / past

    @property
    def _past(self) -> float:
        return sum(self._expected[name] for name in self._took if name in self._expected) + self._in_current

    @property
    def _in_current(self) -> float:
        return 0.0 if self._current in self._took else self._share * self._expected.get(self._current, 0.0)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within it no bars and no advice of the libraries stand between the lines of the progress."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    own = logging.getLogger("textanchor")
    level = own.level
    own.setLevel(logging.WARNING)  # what it logs is said by the progress
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        own.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:2d}:{rest:02d}"


def _in_words(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {max(seconds, 1):.0f} s"
