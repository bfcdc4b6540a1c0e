"""Interpolation alone, shard by shard: neither model is loaded, and one shard of the tuned checkpoint is in memory."""

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from textanchor.diffs.compare import Source
from textanchor.diffs.pair import Pair
from textanchor.errors import ModelError
from textanchor.outputs import require_room, writing
from textanchor.repairs.apply import interpolated
from textanchor.repairs.plan import RepairPlan
from textanchor.repairs.report import RepairedTensor
from textanchor.repairs.write import copy_other_files


def can_stream(pair: Pair, plan: RepairPlan) -> bool:
    """Whether a repair needs no model: it only interpolates, and the tuned folder names its tensors as it is loaded."""
    is_plain = not pair.is_adapter and not pair.tuned_names.wrapped and not pair.matching.misnamed
    return is_plain and not plan.filters and Path(pair.label).is_dir()


def write_interpolated(pair: Pair, plan: RepairPlan, strength: float, folder: Path) -> list[RepairedTensor]:
    """Write the tuned checkpoint's files into `folder` with each changed tensor moved towards the base; read them back.

    Gives one row for each changed tensor.
    """
    own_names = {stored: (name, base) for name, (base, stored) in pair.matching.pairs.items()}
    require_room(folder, sum(stored.num_bytes for stored in pair.tuned.tensors.values()))
    rows: list[RepairedTensor] = []
    source = Path(pair.label)
    files = sorted({t.path for t in pair.tuned.tensors.values() if t.path is not None})
    for path in files:
        copy = folder / path.relative_to(source)
        tensors = {n: _read(pair, n) for n, stored in pair.tuned.tensors.items() if stored.path == path}
        for stored_name in [n for n in tensors if n in own_names]:
            name, base_name = own_names[stored_name]
            part = pair.structure.group_of(pair.structure.tied.get(name, name))  # tied ones stay equal
            alpha = 1 - strength * (1 - plan.interpolate.get(part, 1.0))
            base = Source(pair.base, base_name)
            values = base.rows(0, base.stored.num_rows).reshape(base.stored.shape)
            row = RepairedTensor.of(name, part, values, tensors[stored_name], None)
            if row.change and not row.is_finite:
                raise ModelError(f"{pair.label}: {name} has entries that are NaN or infinite, which no repair can mend")
            if row.change:
                tensors[stored_name] = interpolated(values, tensors[stored_name], alpha)
                rows.append(row.after(values, tensors[stored_name]))
        with writing(copy, num_bytes=sum(values.nbytes for values in tensors.values())):
            copy.parent.mkdir(parents=True, exist_ok=True)  # an index may name files in folders within
            save_file(tensors, copy, metadata={"format": "pt"})
        _require_same(copy, tensors)
    with writing(folder):
        copy_other_files(source, folder)
        if files != [source / SAFE_WEIGHTS_NAME] and (source / SAFE_WEIGHTS_INDEX_NAME).is_file():
            shutil.copyfile(source / SAFE_WEIGHTS_INDEX_NAME, folder / SAFE_WEIGHTS_INDEX_NAME)
    if not rows:
        raise ModelError(f"{pair.label}: holds the base's weights, so there is nothing to repair")
    return rows


def _read(pair: Pair, name: str) -> Tensor:
    source = Source(pair.tuned, name)
    return source.rows(0, source.stored.num_rows).reshape(source.stored.shape)


def _require_same(path: Path, tensors: dict[str, Tensor]) -> None:
    with safe_open(path, framework="pt") as file:
        for name, values in tensors.items():
            found = file.get_tensor(name)
            if found.dtype != values.dtype or not torch.equal(found, values):
                raise ModelError(f"{path}: {name} comes back with other values; is the disk full or damaged?")
