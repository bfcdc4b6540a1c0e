"""Checkpoints that are complete or not there, and finding the one to resume from."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from textanchor.config import to_dict
from textanchor.errors import ConfigError
from textanchor.files import read_json, write_json
from textanchor.training.config import AdaptConfig
from textanchor.training.hf import RunCallback, checkpoint_folder
from textanchor.vlm.precision import Format

MARKER = "textanchor.json"
"""Written last: a checkpoint without it was cut off while it was written."""
PRECISION = "precision"


class CheckpointKeeper(TrainerCallback):
    """Writes the marker with what the run's other callbacks recorded; it must stand last among them."""

    def __init__(
        self, config: AdaptConfig, hashes: Mapping[str, str], precision: Format, callbacks: Sequence[RunCallback]
    ):
        self.identity = {"config": run_identity(config), **hashes}
        self.precision: Format = precision
        self.callbacks = callbacks

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        records = {callback.name: callback.record() for callback in self.callbacks}
        write_json(
            checkpoint_folder(args, state) / MARKER, {**self.identity, PRECISION: self.precision, "records": records}
        )

    def restore_all(self, checkpoint: Path) -> None:
        """Hand the records of `checkpoint` back; ConfigError where it is of another run."""
        content = read_json(checkpoint / MARKER)
        for key, what in (("config", "configuration"), ("model", "model"), ("data", "content of its data")):
            if content[key] != self.identity[key]:
                raise ConfigError(
                    f"{checkpoint}: was written by a run with another {what}"
                    f"{_difference(content[key], self.identity[key])}; resume with the same one, or remove the folder "
                    "and start anew"
                )
        for callback in self.callbacks:
            if callback.name in content["records"]:
                callback.restore(content["records"][callback.name])


def run_identity(config: AdaptConfig) -> dict[str, Any]:
    """What must be the same in a resumed run: all but where it is written, how often it is logged and saved."""
    free: dict[str, Any] = {"logging_steps": 1, "save_steps": None, "report_to": ()}
    return to_dict(replace(config, output=Path("output"), training=replace(config.training, **free)))


def _difference(before: Any, now: Any, place: str = "") -> str:
    """The first key in which two configurations differ, for the message."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{place}.{key}".lstrip("."))
    return f" ({place}: {before} then, {now} now)" if place else ""


def workspace_of(output: Path) -> Path:
    """Folder of the checkpoints of the run that writes to `output`."""
    return output.with_name(output.name + ".checkpoints")


def checkpoint_to_resume(workspace: Path, *, resume: bool) -> Path | None:
    """The newest complete checkpoint if `resume`; ConfigError where there is none, or one that was not asked for."""
    newest = newest_checkpoint(workspace)
    if resume and newest is None:
        raise ConfigError(f"{workspace}: no complete checkpoint to resume from; start the run without resume")
    if not resume and newest is not None:
        raise ConfigError(
            f"{workspace}: an interrupted run left {newest.name} here; resume it, or remove the folder to start anew"
        )
    return newest


def precision_of_checkpoint(checkpoint: Path) -> Format | None:
    """The number format that the run computed in, which a resumed run keeps to; None where nothing is said."""
    return read_json(checkpoint / MARKER).get(PRECISION)


def newest_checkpoint(workspace: Path) -> Path | None:
    """The complete checkpoint of the latest step, if there is one."""
    complete = (path.parent for path in workspace.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{MARKER}"))
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


@contextmanager
def checkpoints_kept(workspace: Path) -> Iterator[None]:
    """Make the folder; if the run fails before its first checkpoint, there is nothing in it to keep."""
    workspace.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if newest_checkpoint(workspace) is None:
            shutil.rmtree(workspace)
