"""Which files of a folder `from_pretrained` reads a model's weights from: Transformers is asked, and only safetensors.

It takes what config.json names as `transformers_weights`, else model.safetensors, else what the index names, else
pickles. What an index names is joined to the folder, wherever that leads.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.distributed.checkpoint import is_sharded_checkpoint
from transformers.modeling_utils import _get_resolved_checkpoint_files
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from textanchor.errors import ModelError
from textanchor.files import read_json

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
MAX_NAMES = 4
EXPECTED = "expected weights as *.safetensors, found"
INDEX_FORM = '{"metadata": {}, "weight_map": {tensor: file}}'
CONVERT = "where you trust them, load them with from_pretrained and write them with save_pretrained"


@dataclass(frozen=True)
class WeightFiles:
    """Transformers' choice in a folder."""

    files: tuple[Path, ...] = ()
    """The safetensors that it reads, in its order; one that an index names may be missing."""
    index: Mapping[str, str] = field(default_factory=dict)
    """Tensor -> file in the folder, as the index says it; empty without one."""
    refusal: str = ""
    """Why it reads none, in a clause about the folder."""


def weight_files(folder: Path) -> WeightFiles:
    """What `from_pretrained` reads from a folder; nothing is opened but config.json and the index.

    ModelError where it would read pickles, files outside of the folder, or a distributed checkpoint.
    """
    if is_sharded_checkpoint(folder):
        raise ModelError(
            f"{folder}: a distributed checkpoint, whose files hold slices of tensors; load it with from_pretrained and "
            "write it with save_pretrained"
        )
    named = _named_by_config(folder)
    try:
        found, metadata = _get_resolved_checkpoint_files(
            pretrained_model_name_or_path=str(folder),
            variant=None,
            gguf_file=None,
            use_safetensors=None,
            user_agent=None,
            is_remote_code=False,
            transformers_explicit_filename=named,
            download_kwargs={"local_files_only": True},
        )
    except OSError:
        return WeightFiles(refusal=_nothing_chosen(folder))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return WeightFiles(refusal=_unusable(named, reason))
    files = tuple(Path(file) for file in found or ())
    _require_own_safetensors(folder, files, named or SAFE_WEIGHTS_INDEX_NAME)
    if not files:
        return WeightFiles(refusal=_unusable(named, "it names no files"))
    return WeightFiles(files, {} if metadata is None else metadata["weight_map"])


def names_of_pickles(folder: Path) -> list[str]:
    """Files of a folder that are pickled by their names."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)


def listed(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")


def _named_by_config(folder: Path) -> Any:
    config = folder / CONFIG_NAME
    values = read_json(config) if config.is_file() else {}
    return values.get("transformers_weights") if isinstance(values, dict) else None


def _nothing_chosen(folder: Path) -> str:
    looked_for = f"no {SAFE_WEIGHTS_NAME} and no {SAFE_WEIGHTS_INDEX_NAME}, which from_pretrained looks for"
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if found:
        return f"found {listed(found)}, but {looked_for}"
    pickles = names_of_pickles(folder)
    if pickles:
        return f"{EXPECTED} only pickled weights ({listed(pickles)}), which can run code when read; {CONVERT}"
    return f"{EXPECTED} none"


def _unusable(named: Any, reason: str) -> str:
    if named is not None and not str(named).endswith(".json"):
        return f"{CONFIG_NAME} names {named!r} as transformers_weights, which from_pretrained refuses ({reason})"
    return f"{named or SAFE_WEIGHTS_INDEX_NAME} is not of the form that from_pretrained reads, {INDEX_FORM} ({reason})"


def _require_own_safetensors(folder: Path, files: tuple[Path, ...], index: str) -> None:
    root = os.path.abspath(folder)
    outside = next((file for file in files if not Path(os.path.abspath(file)).is_relative_to(root)), None)
    if outside is not None:
        raise ModelError(
            f"{folder / index}: leads to {outside}, which is outside of its own folder; save the checkpoint again"
        )
    pickled = [file.name for file in files if file.suffix != ".safetensors"]
    if pickled:
        only = "none that from_pretrained reads, but" if any(folder.glob("*.safetensors")) else "only"
        raise ModelError(
            f"{folder}: {EXPECTED} {only} pickled weights ({listed(pickled)}), which can run code when read; {CONVERT}"
        )
