"""Checkpoints that are complete or not there, and finding the one to resume from."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from textanchor.config import from_dict, to_dict
from textanchor.errors import ConfigError, DataError, OutputError
from textanchor.files import read_sealed_json, sha256_of_file, write_sealed_json
from textanchor.outputs import finished, writing
from textanchor.records import RunRecord
from textanchor.training.config import AdaptConfig
from textanchor.training.hf import RunCallback, checkpoint_folder
from textanchor.vlm.precision import Format

RECORD = "run.json"
MARKER = "textanchor.json"
"""Written last, with the checksum of every file: a checkpoint without it was cut off while it was written."""
PRECISION = "precision"
METHOD_FOLDER = "method"
"""Folder beside the checkpoints for what a method computed once and a resumed run takes up."""


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
        folder = checkpoint_folder(args, state)
        files = {name: sha256_of_file(folder.parent / name) for name in _files_of(folder)}
        write_sealed_json(
            folder / MARKER, {**self.identity, PRECISION: self.precision, "records": records, "files": files}
        )

    def restore_all(self, checkpoint: Path) -> None:
        """Hand the records of `checkpoint` back; ConfigError where it is of another run."""
        content = read_marker(checkpoint)
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
    """Folder of the checkpoints of the run that writes to `output`; OutputError where that is no name."""
    if output.name in ("", ".."):
        raise OutputError(f"{output}: is a folder that is in use; give the name of a new folder in it")
    return output.with_name(output.name + ".checkpoints")


def checkpoint_to_resume(workspace: Path, *, resume: bool) -> Path | None:
    """The newest complete checkpoint if `resume`.

    ConfigError where there is none, or one that was not asked for; DataError where a file of it is not as it was
    written, so that the run would not end in the same weights.
    """
    newest = newest_checkpoint(workspace)
    if resume and newest is None:
        raise ConfigError(f"{workspace}: no complete checkpoint to resume from; start the run without resume")
    if not resume and newest is not None:
        raise ConfigError(
            f"{workspace}: an interrupted run left {newest.name} here; resume it, or remove the folder to start anew"
        )
    if newest is not None:
        _require_whole(newest)
    return newest


def precision_of_checkpoint(checkpoint: Path) -> Format:
    """The number format that the run computed in, which a resumed run keeps to."""
    return read_marker(checkpoint)[PRECISION]


def read_marker(checkpoint: Path) -> dict[str, Any]:
    """What the run wrote last into the checkpoint; DataError where it was changed since."""
    return read_sealed_json(checkpoint / MARKER, _without(checkpoint))


def _require_whole(checkpoint: Path) -> None:
    for name, checksum in read_marker(checkpoint)["files"].items():
        file = checkpoint.parent / name
        if not file.is_file() or sha256_of_file(file) != checksum:
            what = "was changed since the checkpoint was written" if file.is_file() else "is missing"
            raise DataError(
                f"{file}: {what}, so the run cannot go on to the weights it would have had; {_without(checkpoint)}"
            )


def _without(checkpoint: Path) -> str:
    return (
        f"remove {checkpoint} to resume from an earlier checkpoint if there is one, or {checkpoint.parent} to start "
        "anew"
    )


def _files_of(checkpoint: Path) -> list[str]:
    """What a resumed run reads: the checkpoint's files and what the method keeps, by their paths in the workspace."""
    folders = (checkpoint, checkpoint.parent / METHOD_FOLDER)
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return sorted(file.relative_to(checkpoint.parent).as_posix() for file in files)


def newest_checkpoint(workspace: Path) -> Path | None:
    """The complete checkpoint of the latest step, if there is one."""
    complete = {step: path for step, path in _checkpoints(workspace).items() if (path / MARKER).is_file()}
    return complete[max(complete)] if complete else None


def _checkpoints(workspace: Path) -> dict[int, Path]:
    """Folders of checkpoints by step, those that were cut off while they were written among them."""
    prefix = f"{PREFIX_CHECKPOINT_DIR}-"
    named = ((path.name.removeprefix(prefix), path) for path in finished(workspace, f"{prefix}*"))
    return {int(step): path for step, path in named if step.isdecimal()}


def _remove_cut_off(workspace: Path) -> None:
    for path in _checkpoints(workspace).values():
        if not (path / MARKER).is_file():
            shutil.rmtree(path)


def remove_outlived(workspace: Path, output: Path) -> None:
    """Remove the checkpoints of the run that wrote `output`, where it was killed before it had done so itself."""
    newest = newest_checkpoint(workspace)
    if newest is None or not (output / RECORD).is_file():
        return
    marker, record = read_marker(newest), RunRecord.load(output / RECORD)
    is_the_same_run = all(record.hashes.get(key) == marker[key] for key in ("model", "data")) and (
        run_identity(from_dict(AdaptConfig, record.config)) == marker["config"]
    )
    if is_the_same_run:
        shutil.rmtree(workspace)


@contextmanager
def checkpoints_kept(workspace: Path) -> Iterator[None]:
    """Make the folder; if the run fails before its first checkpoint, there is nothing in it to keep.

    A checkpoint that was cut off while it was written is removed, and an OutputError names the one that is kept.
    """
    with writing(workspace):
        workspace.mkdir(parents=True, exist_ok=True)
        _remove_cut_off(workspace)
    try:
        yield
    except OutputError as error:
        newest = newest_checkpoint(workspace)
        if newest is None:
            raise
        raise OutputError(f"{error}; {newest} is kept, and the run can be resumed from it") from error
    finally:
        _remove_cut_off(workspace)
        if newest_checkpoint(workspace) is None:
            shutil.rmtree(workspace)
