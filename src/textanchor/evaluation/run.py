"""Several suites on one model, in memory or into a folder that an interrupted run is taken up from."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import nn

from textanchor.config import from_dict, to_dict
from textanchor.data.json_rows import read_rows
from textanchor.errors import DataError, OutputError
from textanchor.evaluation.identity import answerer_hash
from textanchor.evaluation.journal import Journal
from textanchor.evaluation.results.summary import summarise, summarise_generated
from textanchor.evaluation.scoring.candidates import sharing_obstacle
from textanchor.evaluation.scoring.images import TowerCache
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions, require_places, suite_hash
from textanchor.evaluation.suites.closed import ClosedSuite, score_closed
from textanchor.files import OTHER_CACHE, read_sealed_json, sha256_of_json, write_json, write_sealed_json, write_text
from textanchor.outputs import adding, claimed, require_free_directory
from textanchor.records import RunRecord, Score, environment, memory_cost
from textanchor.vlm.hashing import tensors_hash

SCORES, SUMMARY, RECORD, FINISHED = "scores.jsonl", "summary.json", "run.json", "finished.json"
JOURNALS = "journals"
ANOTHER_FOLDER = "choose another output folder, or remove this one"
GOES_ON = "what was computed so far is kept, and the same command goes on from there"
NO_CACHE = f"{OTHER_CACHE}, or leave the cache out (--no-cache)"


def evaluate(
    model: nn.Module,
    processor: Any,
    suites: Sequence[AbstractSuite],
    *,
    options: EvaluationOptions | None = None,
    progress: bool = True,
) -> list[Score]:
    """Rows of all suites, in their order; closed suites are scored together, so that they share images.

    The model is put into eval mode and given back as it was. An image passes the tower once in all suites, and once in
    all evaluations that are given the same `options.tower_cache`.
    """
    options = _with_cache(options)
    closed = [suite for suite in suites if isinstance(suite, ClosedSuite)]
    with _progress(suites, options, shown=progress) as told:
        rows = score_closed(closed, model, processor, told)
        for suite in suites:
            if suite.name not in rows:
                rows[suite.name] = suite.score(model, processor, told)
    return [row for suite in suites for row in rows[suite.name]]


def evaluate_to_folder(
    model: nn.Module,
    processor: Any,
    suites: Sequence[AbstractSuite],
    folder: Path | str,
    *,
    name: str,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    options: EvaluationOptions | None = None,
    cache: Path | None = None,
    progress: bool = True,
) -> RunRecord:
    """Evaluate suite by suite and write scores.jsonl, summary.json (see `summarise`) and run.json (the record).

    After an interruption the same call goes on after the last batch of items that was finished, and ends with the rows
    of an uninterrupted one; a suite whose items or settings have changed is scored again. What was computed is kept in
    `cache` (the folder itself, unless given), and is not computed again for an equal model, suite and version of ours.
    TextanchorError where the folder holds the scores of other weights, or is another process's.
    """
    require_places(suites)
    began, folder = time.monotonic(), Path(folder)
    options = _with_cache(options)
    model_hash = tensors_hash(model.state_dict().items())
    answerer = answerer_hash(model_hash, model, processor, options)
    hashes = {suite.name: sha256_of_json([suite_hash(suite), answerer]) for suite in suites}
    with claimed(folder):
        done = _Finished.read(folder, model_hash)
        with adding(GOES_ON), done.begun():
            for suite in suites:
                if done.hashes.get(suite.name) != hashes[suite.name]:
                    with (
                        _journal(folder, cache, hashes[suite.name]) as journal,
                        _progress([suite], replace(options, journal=journal), shown=progress) as told,
                    ):
                        done.add(suite.name, hashes[suite.name], suite.score(model, processor, told))
            scores = [row for suite in suites for row in done.rows[suite.name]]
            record = RunRecord(
                name=name,
                method="evaluate",
                seed=seed,
                config=dict(config or {}),
                **environment(),
                hashes={"model": model_hash, **{suite.name: suite.data_hash for suite in suites}},
                cost={"seconds": time.monotonic() - began, **memory_cost()},
                scores=scores,
                extra={
                    "precision": options.precision,
                    "image_sharing": _sharing(model, options),
                    "malformed_rows": {suite.name: list(suite.malformed) for suite in suites if suite.malformed},
                },
            )
            write_json(folder / SUMMARY, {**summarise(scores), **summarise_generated(scores)})
            record.save(folder / RECORD)
    return record


def require_evaluation_folder(folder: Path) -> None:
    """Raise OutputError where `folder` holds something else than an evaluation to take up."""
    if not (folder / FINISHED).is_file():
        require_free_directory(folder)


@contextmanager
def _journal(folder: Path, cache: Path | None, name: str) -> Iterator[Journal]:
    """Where one suite's answers are kept; another process that computes the same is waited for, not raced."""
    path = (cache or folder / JOURNALS) / f"{name}.jsonl"
    with nullcontext() if cache is None else adding(NO_CACHE), claimed(path, wait=True):
        yield Journal(path)


def _with_cache(options: EvaluationOptions | None) -> EvaluationOptions:
    """The options, or the defaults, with a cache of their own where they have none (an empty one is one)."""
    options = options or EvaluationOptions()
    return replace(options, tower_cache=TowerCache()) if options.tower_cache is None else options


def read_scores(folder: Path | str) -> list[Score]:
    """The rows of a folder that `evaluate_to_folder` wrote; DataError naming file and line where one is no score."""
    path = Path(folder) / SCORES
    if not path.is_file():
        raise DataError(f"{path}: no such file; is this the folder of an evaluation?")
    rows = [from_dict(Score, row, source=place) for place, row in read_rows(path)]
    if not rows:
        raise DataError(f"{path}: holds no scores; evaluate again into an empty folder")
    return rows


class _Finished:
    """Rows and hash of every suite that a folder has finished, on disk and in memory."""

    def __init__(self, folder: Path, model_hash: str):
        self.folder, self.model_hash = folder, model_hash
        self.hashes: dict[str, str] = {}
        self.rows: dict[str, list[Score]] = {}

    @classmethod
    def read(cls, folder: Path, model_hash: str) -> "_Finished":
        require_evaluation_folder(folder)
        found = cls(folder, model_hash)
        if not (folder / FINISHED).is_file():
            return found
        state = read_sealed_json(folder / FINISHED, ANOTHER_FOLDER)
        if state["model"] != model_hash:
            raise OutputError(f"{folder}: holds the scores of a model with other weights; {ANOTHER_FOLDER}")
        rows = read_scores(folder) if state["suites"] else []
        for name, entry in state["suites"].items():
            found.hashes[name], found.rows[name] = entry["suite"], [row for row in rows if row.suite == name]
            if _rows_hash(found.rows[name]) != entry["rows"]:
                raise DataError(
                    f"{folder / SCORES}: the rows of {name} were changed since they were written; {ANOTHER_FOLDER}"
                )
        return found

    def add(self, suite: str, suite_hash: str, rows: list[Score]) -> None:
        """Write the rows, then say that the suite is finished: an interruption in between scores it again."""
        self.hashes.pop(suite, None)
        self.write_state()
        self.rows[suite] = rows
        lines = [json.dumps(to_dict(row), ensure_ascii=False) for kept in self.rows.values() for row in kept]
        write_text(self.folder / SCORES, "".join(f"{line}\n" for line in lines))
        self.hashes[suite] = suite_hash
        self.write_state()

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Within it, the folder is known as one to take up; an error before anything was computed leaves nothing."""
        is_new = not self.folder.exists()
        self.write_state()
        try:
            yield
        finally:
            journals = self.folder / JOURNALS
            if not self.rows and not any(journals.glob("*")):
                (self.folder / FINISHED).unlink()
                for empty in (journals, self.folder) if is_new else (journals,):
                    with suppress(OSError):  # it is not there, or something else is in it
                        empty.rmdir()

    def write_state(self) -> None:
        suites = {name: {"suite": sha, "rows": _rows_hash(self.rows[name])} for name, sha in self.hashes.items()}
        write_sealed_json(self.folder / FINISHED, {"model": self.model_hash, "suites": suites})


def _rows_hash(rows: Sequence[Score]) -> str:
    return sha256_of_json([to_dict(row) for row in rows])


def _sharing(model: nn.Module, options: EvaluationOptions) -> str:
    """How closed questions were computed, for the record."""
    obstacle = "switched off" if options.sharing == "off" else sharing_obstacle(model)
    return "one row for each image" if obstacle is None else f"row by row: {obstacle}"


@contextmanager
def _progress(
    suites: Sequence[AbstractSuite], options: EvaluationOptions, *, shown: bool
) -> Iterator[EvaluationOptions]:
    """The options with a bar on standard error that shows items done, the rate and the time left."""
    if not shown:
        yield options
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        what = suites[0].name if len(suites) == 1 else f"{len(suites)} suites"
        task = bar.add_task(f"evaluating {what}", total=sum(suite.num_steps for suite in suites))

        def advance(num_items: int) -> None:
            options.finished(num_items)
            bar.advance(task, num_items)

        yield replace(options, advance=advance)


class _Rate(ProgressColumn):
    """Items each second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")
