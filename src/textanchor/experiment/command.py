"""`textanchor compare`: run what is left of a matrix, then put the records together."""

import fnmatch
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from textanchor.bounds import require_range
from textanchor.errors import ConfigError, ModelError, OutputError
from textanchor.experiment.bench import Bench, Loader
from textanchor.experiment.cells import Cell, load_cells
from textanchor.experiment.code import code_hash
from textanchor.experiment.reading.summary import PAGE, write_summary
from textanchor.experiment.results import FAILED, Results, Status
from textanchor.experiment.run import run_cell
from textanchor.files import lines_of
from textanchor.outputs import adding, claimed, scratch_directory
from textanchor.report.compare import compare_tables
from textanchor.tables import terminal_tables
from textanchor.vlm.loading import load_vlm

FILTERS: dict[str, Callable[[Cell], str]] = {
    "arm": lambda cell: cell.arm,
    "strength": lambda cell: cell.strength,
    "rate": lambda cell: cell.rate,
    "task": lambda cell: cell.task,
    "seed": lambda cell: str(cell.seed),
}

WIDTH = 170
"""Of the tables on the terminal."""
GOES_ON = "the runs that are finished are kept, and the same command goes on from there"


@dataclass(frozen=True)
class Outcome:
    """What one call of `compare` left behind."""

    num_done: int
    num_failed: int
    num_left: int
    folder: Path
    tables: str = ""
    """What all records in the folder say."""

    def __str__(self) -> str:
        told = f"{self.num_done} done, {self.num_failed} failed, {self.num_left} left to run: {self.folder}"
        if self.num_failed:
            told += f"; errors in {self.folder / FAILED}"
        return f"{self.tables}\n\n{told}\nreport: {self.folder / PAGE}" if self.tables else told


def compare(
    matrix: Path | str,
    out: Path,
    *,
    only: Sequence[str] = (),
    dry_run: bool = False,
    max_minutes: float | None = None,
    rerun_stale: bool = False,
    load: Loader = load_vlm,
    say: Callable[[str], None] | None = None,
) -> Outcome:
    """Run the cells of the matrix that are not finished in `out`, seed by seed, and write what all records say.

    Every configuration is checked before anything runs. A cell that fails is kept apart, and tried again by the next
    call. With `max_minutes`, no cell is begun that is not expected to be finished by then.
    """
    require_range("--max-minutes", max_minutes, least=0)
    say = say or _say
    loaded, cells = load_cells(matrix)
    name, cells = loaded.name, _chosen(cells, only)
    results, code = Results(out), code_hash()
    if dry_run:
        status = results.status(cells, code)
        say(_told(status))
        for cell in cells:
            say(f"  {_state(cell, status)}  {cell.name}")
        return Outcome(len(status.done), len(status.failed), len(status.left), out)
    with claimed(out):
        results.require_own_folder()
        results.clear_half_written()
        status = results.status(cells, code, rerun_stale=rerun_stale)
        say(_told(status))
        with adding(GOES_ON):
            with scratch_directory(out) as scratch:
                bench = Bench(load, scratch=scratch, precisions=results.precisions())
                failed = _run_all(status, results, bench, say, max_minutes)
            records = results.records()
            tables = ""
            if records:
                tables = terminal_tables(compare_tables(write_summary(name, records, out)), width=WIDTH)
    left = [cell for cell in status.left if not results.record_path(cell).is_file()]
    return Outcome(len(cells) - len(left), failed, len(left) - failed, out, tables)


def _run_all(
    status: Status, results: Results, bench: Bench, say: Callable[[str], None], max_minutes: float | None
) -> int:
    """Run what is left; the number of cells that failed."""
    began, known, failed, seconds = time.monotonic(), results.models(), 0, list(status.seconds)
    for number, cell in enumerate(status.left, start=1):
        expected = sum(seconds) / len(seconds) if seconds else 0.0
        if max_minutes is not None and time.monotonic() - began + expected > 60 * max_minutes:
            say(f"stopped before {cell.name}: it would end after {max_minutes:g} minutes; call again to go on")
            break
        say(f"[{number}/{len(status.left)}] {cell.name}")
        try:
            _, _, model_hash = bench.model(cell)
            if known.setdefault(cell.config.model, model_hash) != model_hash:
                raise ModelError(
                    f"{cell.config.model}: is another model than the one of the finished runs; give another --out"
                )
            record = run_cell(cell, bench)
        except OutputError:  # no other cell could be written either
            raise
        except Exception as error:  # whatever it is, the other cells do not depend on it
            failed += 1
            results.keep_failure(cell, error)
            say(f"  failed: {type(error).__name__}: {lines_of(str(error))[0]}")
            continue
        results.keep(cell, record)
        seconds.append(record.cost["seconds"])
        to_go = (len(status.left) - number) * sum(seconds) / len(seconds) / 60
        took, computing = record.cost["seconds"], record.cost["processor_seconds"]
        say(f"  {took:.0f} s ({computing:.0f} s of processor time); about {to_go:.0f} minutes to go")
    return failed


def _chosen(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells that pass every filter "key=pattern,pattern"; ConfigError where a filter is none, or nothing passes."""
    chosen = list(cells)
    for text in only:
        key, equals, patterns = text.partition("=")
        if key not in FILTERS or not equals:
            raise ConfigError(f"--only {text!r}: expected KEY=VALUE[,VALUE], KEY one of {', '.join(FILTERS)}")
        read, wanted = FILTERS[key], patterns.split(",")
        there = list(dict.fromkeys(map(read, cells)))
        for pattern in wanted:
            if not fnmatch.filter(there, pattern):
                raise ConfigError(f"--only {text!r}: no {key} matches {pattern!r}; there are {', '.join(there)}")
        chosen = [cell for cell in chosen if any(fnmatch.fnmatchcase(read(cell), pattern) for pattern in wanted)]
    if not chosen:
        raise ConfigError(f"--only {' --only '.join(only)}: no cell passes all of them")
    return chosen


def _told(status: Status) -> str:
    total = len(status.done) + len(status.left)
    told = f"{total} cells: {len(status.done)} done, {len(status.failed)} failed before, {len(status.left)} to run"
    if status.left and status.estimate is not None:
        told += f", about {status.estimate / 60:.0f} minutes by the mean of the finished ones"
    return told


def _state(cell: Cell, status: Status) -> str:
    return "done  " if cell in status.done else "failed" if cell in status.failed else "to run"


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, markup=False).print(text, soft_wrap=True)
