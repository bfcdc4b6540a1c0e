"""A PEFT adapter as a checkpoint: the base's weights with its LoRA updates added, row by row as they are asked for.

Shape legend: O outputs, I inputs of a linear, r rank.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from textanchor.diffs.checkpoint import ADAPTER_CONFIG, Checkpoint, Problem, open_adapter_weights
from textanchor.diffs.headers import StoredTensor
from textanchor.diffs.structure import Structure
from textanchor.errors import ModelError
from textanchor.files import read_json

ADAPTER_TENSOR = re.compile(
    r"^(?P<layer>.+)\.(?P<kind>lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.\w+)*?(?:\.(?P<leaf>weight|bias))?$"
)
WAY_OUT = "merge it with PEFT (merge_and_unload, save_pretrained) and give the merged folder"


@dataclass(frozen=True, eq=False)
class LoraUpdate:
    """scaling * B A, which is to be added to a weight of shape (O, I)."""

    a_rI: Tensor
    b_Or: Tensor
    scaling: float

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows of the update in float32."""
        return self.scaling * (self.b_Or[start:stop] @ self.a_rI)

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self.b_Or.shape[0], self.a_rI.shape[1]


@dataclass(frozen=True, eq=False)
class Adapter:
    """A PEFT adapter folder, by the model's own names."""

    folder: Path
    config: Mapping[str, Any]
    updates: dict[str, LoraUpdate]
    """Weight -> its LoRA update."""
    whole: dict[str, str]
    """Tensor that was trained in full (modules_to_save) -> its name in the file."""
    weights: Checkpoint

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the file."""
        return self.weights.problems

    @property
    def modules_to_save(self) -> tuple[str, ...]:
        """Modules that were to be trained and saved in full."""
        return tuple(self.config.get("modules_to_save") or ())


def read_adapter(folder: Path, structure: Structure) -> Adapter:
    """The adapter of a folder; ModelError where it is no plain LoRA, or is pickled or damaged."""
    config = read_json(folder / ADAPTER_CONFIG)
    _require_plain_lora(folder, config)
    weights = open_adapter_weights(folder)
    factors: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, str] = {}
    for stored_name in weights.tensors:
        found = ADAPTER_TENSOR.match(stored_name)
        if found is None:
            whole[structure.place(stored_name).name] = stored_name
            continue
        kind, layer = found["kind"], found["layer"]
        if kind == "lora_magnitude_vector" or found["leaf"] == "bias" or len(weights.tensors[stored_name].shape) != 2:
            raise ModelError(f"{folder}: {stored_name} is no plain LoRA on a linear or an embedding; {WAY_OUT}")
        factors.setdefault(layer, {})[kind] = weights.whole(stored_name).float()
    updates = {
        structure.place(f"{layer}.weight").name: _update(folder, layer, pair, config)
        for layer, pair in factors.items()
        if weights.problems == () or len(pair) == 2  # of a file that is cut off, one of a pair may be left
    }
    return Adapter(folder, config, updates, whole, weights)


def _require_plain_lora(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{folder}: an adapter of type {kind}; LoRA is read, of any other {WAY_OUT}")
    for key in ("use_dora", "target_parameters", "trainable_token_indices", "layer_replication", "fan_in_fan_out"):
        if config.get(key):
            raise ModelError(f"{folder}: the adapter has {key}, which is no plain LoRA; {WAY_OUT}")


def _update(folder: Path, layer: str, pair: Mapping[str, Tensor], config: Mapping[str, Any]) -> LoraUpdate:
    if pair.keys() == {"lora_A", "lora_B"}:
        a_rI, b_Or = pair["lora_A"], pair["lora_B"]
    elif pair.keys() == {"lora_embedding_A", "lora_embedding_B"}:
        a_rI, b_Or = pair["lora_embedding_B"].T, pair["lora_embedding_A"].T
    else:
        raise ModelError(f"{folder}: {layer} has only {', '.join(pair)} of a pair lora_A and lora_B; save it again")
    return LoraUpdate(a_rI, b_Or, _scaling(layer, a_rI.shape[0], config))


def _scaling(layer: str, rank: int, config: Mapping[str, Any]) -> float:
    """alpha / r, or alpha / sqrt(r) with rank stabilisation, alpha by PEFT's own rule for its patterns."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    key = get_pattern_key(list(patterns), layer.removeprefix("base_model.model."))
    alpha = float(patterns.get(key, config.get("lora_alpha", 8)))
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


@dataclass(frozen=True, eq=False)
class AdaptedCheckpoint:
    """What an adapter changes of its base, under the model's own names; everything else is the base's."""

    label: str
    adapter: Adapter
    base: Checkpoint
    base_names: Mapping[str, str]
    """The model's own name -> name in the base."""

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """Tensors that the adapter changes; ModelError where the base has none of that name, or another shape."""
        stored = {name: self.adapter.weights.tensors[file_name] for name, file_name in self.adapter.whole.items()}
        for name, update in self.adapter.updates.items():
            base = self.base.tensors.get(self.base_names.get(name, ""))
            if base is None or base.shape != update.shape:
                found = "has no such tensor" if base is None else f"has it with shape {base.shape}"
                raise ModelError(
                    f"{self.label}: its LoRA update of {name} has shape {update.shape}, but {self.base.label} {found}; "
                    "give the base that the adapter was trained on"
                )
            stored[name] = base
        return stored

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows of the merged weight; in float32 where there is an update."""
        whole, update = self.adapter.whole.get(name), self.adapter.updates.get(name)
        if whole is not None:
            values = self.adapter.weights.rows(whole, start, stop)
        else:
            values = self.base.rows(self.base_names[name], start, stop)
        return values if update is None else values.float() + update.rows(start, stop)
