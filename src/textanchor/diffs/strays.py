"""Weights in a folder that are not loaded with it, and what their names say they hold; no pickle is run.

Trainers leave towers, projectors and heads beside an adapter, and copies of a model leave old shards beside new ones.
"""

import pickle
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textanchor.diffs.headers import read_header
from textanchor.errors import ModelError
from textanchor.vlm.weight_files import PICKLE_SUFFIXES

STATES_OF_TRAINERS = (
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "training_args",
    "trainer_state",
    "sampler",
)
"""Beginnings of names of pickles that hold no weights."""
LARGEST_LISTING = 2**26
"""Bytes of the names and shapes in a pickle, its tensors aside."""
LISTING_ERRORS = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)
"""What torch.load raises where a pickle holds more than tensors, or is damaged."""


@dataclass(frozen=True)
class StrayFile:
    """A file with weights that is not loaded."""

    name: str
    is_pickled: bool
    tensors: tuple[str, ...] | None
    """Names of its tensors; None where they cannot be told without running it."""


def stray_files(folder: Path, loaded: Collection[Path]) -> tuple[StrayFile, ...]:
    """The files with weights in a folder that are not among `loaded`."""
    names = {path.name for path in loaded if path.parent == folder}
    others = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in names]
    return tuple(stray for stray in map(_stray, others) if stray is not None)


def _stray(path: Path) -> StrayFile | None:
    if path.suffix == ".safetensors":
        try:
            return StrayFile(path.name, False, tuple(read_header(path).tensors))
        except ModelError:  # not loaded, so no matter but its name
            return StrayFile(path.name, False, None)
    if path.suffix in PICKLE_SUFFIXES and not path.name.startswith(STATES_OF_TRAINERS):
        return StrayFile(path.name, True, _names_in_pickle(path))
    return None


def _names_in_pickle(path: Path) -> tuple[str, ...] | None:
    """Names of the tensors in a pickle, by torch's reader that runs no code; the tensors themselves are not read."""
    try:
        with zipfile.ZipFile(path) as archive:  # what torch wrote before version 1.6 would be read as a whole
            listing = sum(entry.file_size for entry in archive.infolist() if entry.filename.endswith(".pkl"))
        if listing > LARGEST_LISTING:
            return None
        held = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except LISTING_ERRORS:
        return None
    return tuple(_tensor_names(held))


def _tensor_names(held: Any, depth: int = 2) -> Iterator[str]:
    """Keys of tensors, also of a state dict inside of a dict, as {"module": {...}, "epoch": 1}."""
    for key, value in held.items() if isinstance(held, Mapping) else ():
        if isinstance(value, Tensor) and isinstance(key, str):
            yield key
        elif depth:
            yield from _tensor_names(value, depth - 1)
