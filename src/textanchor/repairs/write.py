"""Write a repaired model as plain Transformers weights and see that they come back as they were meant."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from textanchor.diffs.compare import Source
from textanchor.diffs.folders import ADAPTER_CONFIG
from textanchor.errors import ModelError
from textanchor.outputs import writing
from textanchor.repairs.source import Models
from textanchor.vlm.weight_files import PICKLE_SUFFIXES

OF_WEIGHTS = (SAFE_WEIGHTS_INDEX_NAME, ADAPTER_CONFIG)
"""What says how other files are to be loaded, which are not copied."""


def write_model(models: Models, new: Mapping[str, Tensor], folder: Path) -> None:
    """Fill `folder` with the base under the tuned values under `new`, each tensor in the type that it is stored in.

    Configuration, tokenizer and processor are the tuned model's where it has them. ModelError where the model that
    Transformers loads from the folder is another.
    """
    model, pair = models.base, models.pair
    whole = model.state_dict() | models.tuned | dict(new)
    tensors = {
        name: values.to(_stored_type(models, name, values.dtype)).contiguous()
        for name, values in whole.items()
        if name not in pair.structure.tied
    }
    model.config.dtype = models.dtype
    with writing(folder, num_bytes=sum(values.nbytes for values in tensors.values())):
        if pair.base.folder is not None:
            copy_other_files(pair.base.folder, folder)
        else:
            models.processor.save_pretrained(folder)
        model.save_pretrained(folder, state_dict=tensors)
        if not pair.is_adapter:
            copy_other_files(Path(pair.label), folder)
    reloaded = type(model).from_pretrained(folder, dtype=torch.float32, local_files_only=True).state_dict()
    wrong = [name for name, values in tensors.items() if not torch.equal(reloaded[name], values.float())]
    if wrong:
        raise ModelError(
            f"{folder}: {len(wrong)} tensors come back from the written model with other values ({wrong[0]}), so "
            "nothing was written; save_pretrained of this model class leaves them out: report the model class"
        )


def copy_other_files(source: Path, folder: Path) -> None:
    """Copy what is no weights, such as configuration, tokenizer and processor, over what is there."""
    for path in sorted(source.iterdir()) if source.is_dir() else []:
        if path.is_file() and path.suffix not in (".safetensors", *PICKLE_SUFFIXES) and path.name not in OF_WEIGHTS:
            shutil.copyfile(path, folder / path.name)


def _stored_type(models: Models, name: str, otherwise: torch.dtype) -> torch.dtype:
    """Type of a tensor in the tuned checkpoint; of an adapter's base where the adapter leaves it or updates it."""
    pair: Any = models.pair
    names = pair.matching.pairs.get(name)
    if pair.is_adapter or names is None:
        stored_name = pair.base_names.stored_names.get(name)
        return otherwise if stored_name is None else pair.base.tensors[stored_name].dtype
    return Source(pair.tuned, names[1]).stored.dtype
