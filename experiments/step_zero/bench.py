"""The model under measurement, its suites, and a folder of finished measurements from which a run is taken up."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from settings import Settings

from textanchor.data.folder import read_items
from textanchor.data.items import Item
from textanchor.data.tasks import TASKS, load_items
from textanchor.errors import DataError
from textanchor.evaluation.registry import load_suites
from textanchor.evaluation.run import evaluate
from textanchor.evaluation.scoring.images import TowerCache
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions, suite_hash
from textanchor.evaluation.suites.closed import ClosedSuite
from textanchor.files import read_json, sha256_of_json, write_json
from textanchor.vlm.hashing import tensors_hash
from textanchor.vlm.loading import load_vlm
from textanchor.vlm.parts import find_parts

METRICS = ("gold_nats", "choice_nats", "correct", "nats", "num_tokens")
Rows = dict[str, dict[str, list[float]]]
"""Suite -> metric -> value of every item."""


def told(message: str) -> None:
    """One line of progress with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


class Cells:
    """Single measurements on disk, by the hash of all that decides them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, key: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `compute` gives, from disk where it was computed before."""
        path = self.folder / f"{sha256_of_json(key)}.json"
        if path.is_file():
            return read_json(path)["value"]
        began = time.monotonic()
        value = compute()
        seconds = time.monotonic() - began
        write_json(path, {"key": key, "seconds": seconds, "value": value})
        told(f"{key['stage']} {key.get('update', '')} {key['condition']} ({seconds:.1f} s)")
        return value


class Bench:
    """One loaded model that conditions are measured on."""

    def __init__(self, settings: Settings, work: Path) -> None:
        self.settings, self.work = settings, work
        self.model, self.processor = load_vlm(settings.model)
        self.parts = find_parts(self.model)
        self.model_hash = tensors_hash(self.model.state_dict().items())
        precision = "bfloat16" if settings.autocast else "float32"
        self.options = EvaluationOptions(precision=precision, tower_cache=TowerCache())
        self.cells = Cells(work / "cells")

    def suites(self, names: Sequence[str], num_items: int) -> list[AbstractSuite]:
        """Suites without their blind halves."""
        suites = load_suites(list(names), num_items=num_items, seed=self.settings.seed)
        return [replace(suite, blind=False) if isinstance(suite, ClosedSuite) else suite for suite in suites]

    def rows(self, suites: Sequence[AbstractSuite]) -> Rows:
        """Scores of the model as it is now."""
        rows: Rows = {suite.name: {} for suite in suites}
        for score in evaluate(self.model, self.processor, suites, options=self.options, progress=False):
            if score.metric in METRICS:
                rows[score.suite].setdefault(score.metric, []).append(round(score.value, 5))
        return rows

    def measured(
        self,
        stage: str,
        condition: dict[str, Any],
        suites: Sequence[AbstractSuite],
        compute: Callable[[], dict[str, Any]],
        **key: Any,
    ) -> dict[str, Any]:
        """A cell: the condition with what `compute` found under it."""
        hashes = {suite.name: suite_hash(suite) for suite in suites}
        whole = {"stage": stage, "condition": condition, "model": self.model_hash, "suites": hashes}
        whole |= {"autocast": self.settings.autocast, **key}
        return condition | self.cells.take(whole, compute)


def items_of(source: str, *, split: str, num_items: int, seed: int = 0) -> list[Item]:
    """The first items with an image of a task of ours or of a folder:PATH."""
    kind, _, path = source.partition(":")
    if source in TASKS:
        return load_items(source, split=split, num_items=num_items, seed=seed)  # pyright: ignore[reportArgumentType]
    if kind != "folder":
        raise DataError(f"{source!r}: expected a task ({', '.join(TASKS)}) or folder:PATH")
    items = [item for item in read_items(Path(path), split=split) if item.image is not None]
    if len(items) < num_items:
        raise DataError(f"{source}: {len(items)} items with an image in split {split!r}, {num_items} are needed")
    return items[:num_items]


def new_images(settings: Settings, source: str, num_images: int) -> list[Item]:
    """Validation items of a new task, none of which shows an image of the references."""
    known = {item.image_id for item in reference_items(settings, settings.reference.num_images)}
    count = num_images
    while True:
        items = items_of(source, split="validation", num_items=count)
        apart = [item for item in items if item.image_id not in known]
        if len(apart) >= num_images:
            return apart[:num_images]
        count += num_images - len(apart)


def reference_items(settings: Settings, num_items: int, *, skip: int = 0) -> list[Item]:
    """Items of all sources in turn, each about other images where the sources share them."""
    sources, needed = settings.reference.sources, skip + num_items
    rows = [items_of(source, split=settings.reference.split, num_items=needed) for source in sources]
    return [rows[place % len(sources)][place] for place in range(skip, needed)]


def use_threads(count: int) -> None:
    """For torch's own arithmetic."""
    torch.set_num_threads(count)
