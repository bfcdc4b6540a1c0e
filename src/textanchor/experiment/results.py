"""The folder of a comparison: finished runs, failed runs, and which cells are still to be run."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from textanchor.errors import DataError, TextanchorError
from textanchor.experiment.cells import Cell
from textanchor.files import write_text
from textanchor.outputs import clear_half_written, finished, require_free_directory, writing
from textanchor.records import RunRecord
from textanchor.vlm.precision import Format

RUNS, FAILED, STALE = "runs", "failed", "stale"
MOST_NAMED = 3
PRECISIONS = {"training": "precision", "scoring": "scoring_precision"}
"""What is computed -> key of its `ComputePrecision` in a record."""


@dataclass(frozen=True)
class Status:
    """The cells of a matrix by what the folder has of them."""

    done: tuple[Cell, ...]
    left: tuple[Cell, ...]
    """Those that failed among them."""
    failed: tuple[Cell, ...]
    seconds: tuple[float, ...]
    """What each finished run took."""

    @property
    def estimate(self) -> float | None:
        """Seconds for what is left, from the mean of the finished runs; None before the first one."""
        return len(self.left) * sum(self.seconds) / len(self.seconds) if self.seconds else None


class Results:
    """A folder with `runs/NAME.json` for each finished cell and `failed/NAME.txt` for each that failed."""

    def __init__(self, folder: Path):
        self.folder = folder

    def require_own_folder(self) -> None:
        """OutputError where the place is a file, or a folder that holds something, but no comparison to go on with."""
        is_begun = any((self.folder / name).is_dir() for name in (RUNS, FAILED, STALE))
        require_free_directory(self.folder, overwrite=is_begun)

    def clear_half_written(self) -> None:
        """Remove what a killed call left; the folder must be claimed."""
        for name in (RUNS, FAILED):
            clear_half_written(self.folder / name)

    def record_path(self, cell: Cell) -> Path:
        """Where the record of a finished cell lies."""
        return self.folder / RUNS / f"{cell.name}.json"

    def failure_path(self, cell: Cell) -> Path:
        """Where the error of a failed cell lies."""
        return self.folder / FAILED / f"{cell.name}.txt"

    def status(self, cells: Sequence[Cell], code: str, *, rerun_stale: bool = False) -> Status:
        """Which cells are finished with this code and configuration.

        Records of these cells that another code or configuration made are an error, or with `rerun_stale` moved to
        `stale/`: two codes are never mixed.
        """
        records = {cell.name: RunRecord.load(path) for cell in cells if (path := self.record_path(cell)).is_file()}
        finished = [cell for cell in cells if cell.name in records]
        stale = {cell.name: why for cell in finished if (why := _staleness(cell, records[cell.name], code))}
        if stale and not rerun_stale:
            named = "; ".join(f"{name} ({why})" for name, why in list(stale.items())[:MOST_NAMED])
            raise TextanchorError(
                f"{self.folder}: {len(stale)} of {len(records)} records are not of this matrix and this code: {named}. "
                "Records of different code are never mixed: give another --out, go back to that commit, or run these "
                "cells again with --stale rerun (their records are moved to the folder stale)"
            )
        done = [cell for cell in finished if cell.name not in stale]
        left = [cell for cell in cells if cell not in done]
        for cell in left:
            if cell.name in stale:
                self._set_aside(cell)
        return Status(
            done=tuple(done),
            left=tuple(left),
            failed=tuple(cell for cell in left if self.failure_path(cell).is_file()),
            seconds=tuple(records[cell.name].cost["seconds"] for cell in done),
        )

    def models(self) -> dict[str, str]:
        """Hash of each base model that the records name; DataError where they disagree."""
        found: dict[str, str] = {}
        for record in self.records():
            name, digest = str(record.config["model"]), record.hashes["model"]
            if found.setdefault(name, digest) != digest:
                raise DataError(f"{self.folder}: records of two different models called {name}; move one kind away")
        return found

    def precisions(self) -> dict[str, Format]:
        """What runs that left the choice open trained in and were scored in; DataError where the records disagree."""
        found: dict[str, tuple[str, Format]] = {}
        for record in self.records():
            for what, key in PRECISIONS.items():
                chosen = record.extra.get(key)
                if chosen is None or chosen["asked"] != "auto":
                    continue
                other, used = found.setdefault(what, (record.name, chosen["used"]))
                if used != chosen["used"]:
                    raise DataError(
                        f"{self.folder}: {what} was in {used} in {other} and in {chosen['used']} in {record.name}, "
                        "and runs in two precisions are not compared: move one kind away, or set the precision in the "
                        "matrix and run it again"
                    )
        return {what: used for what, (_, used) in found.items()}

    def records(self) -> list[RunRecord]:
        """All finished runs, by name."""
        return [RunRecord.load(path) for path in finished(self.folder / RUNS, "*.json")]

    def keep(self, cell: Cell, record: RunRecord) -> None:
        """Write the record, whole or not at all; an earlier failure is forgotten."""
        record.save(self.record_path(cell))
        self.failure_path(cell).unlink(missing_ok=True)

    def keep_failure(self, cell: Cell, error: Exception) -> None:
        """Write what went wrong, with its traceback."""
        told = "".join(traceback.format_exception(error))
        write_text(self.failure_path(cell), f"{type(error).__name__}: {error}\n\n{told}")

    def _set_aside(self, cell: Cell) -> None:
        source = self.record_path(cell)
        record = RunRecord.load(source)
        target = self.folder / STALE / record.hashes["code"][:12] / record.hashes["cell"][:12] / source.name
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)


def _staleness(cell: Cell, record: RunRecord, code: str) -> str:
    """Why a record is not the one that this cell would get now; empty where it is."""
    if record.hashes.get("code") != code:
        return f"made by other code, commit {record.commit or 'unknown'}"
    if record.hashes.get("cell") != cell.identity_hash():
        return "made with another configuration"
    return ""
