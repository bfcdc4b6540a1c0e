"""The two models of a repair, in memory: the base with its processor, and the tuned weights under the base's names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textanchor.diffs.adapted import AdaptedCheckpoint
from textanchor.diffs.compare import Source
from textanchor.diffs.headers import StoredTensor
from textanchor.diffs.pair import Pair
from textanchor.diffs.structure import ALL_LOOKED_FOR, PartNames
from textanchor.errors import ModelError
from textanchor.files import read_json
from textanchor.repairs.apply import is_changed
from textanchor.vlm.loading import load_model, load_vlm

IN_MEMORY = "load each with from_pretrained, write it with save_pretrained(..., save_original_format=False), give those"
"""The way to a file in the layout that Transformers has in memory; without the option it writes the older one again."""

UNTIE = (
    "repair a base that is untied too: load it with from_pretrained, set tie_word_embeddings to False in model.config "
    "and its text_config, give the head a copy of its weights as a new torch.nn.Parameter, and write it with "
    "save_pretrained"
)


@dataclass(frozen=True, eq=False)
class Models:
    """What a repair starts from."""

    base: Any
    """The base model in float32; gradients are on for exactly the tensors that tuning changed."""
    processor: Any
    """None where it is not needed and lies in the base's folder."""
    tuned: dict[str, Tensor]
    """Changed tensor by its name in the model -> its tuned values, in float32."""
    pair: Pair
    dtype: torch.dtype
    """Type that the tuned weights are stored in."""

    @property
    def start(self) -> dict[str, Tensor]:
        """The base's values of the changed tensors."""
        state = self.base.state_dict()
        return {name: state[name] for name in self.tuned}


def open_pair(base: str | Path, tuned: str | Path, names: PartNames = ALL_LOOKED_FOR) -> Pair:
    """Both checkpoints; ModelError where a repair could not be exact: quantised, incomplete, or another model."""
    pair = Pair(base, tuned, names=names)
    for checkpoint in (pair.base, pair.tuned):
        _refuse_quantised(checkpoint.label, checkpoint.tensors)
    for given in (base, tuned):
        _refuse_stale_settings(Path(given))
    if pair.refusal:
        raise ModelError(f"{pair.label}: from_pretrained cannot load the folder: {pair.refusal}")
    if pair.problems:
        raise ModelError(f"{pair.label}: incomplete: {pair.problems[0]}; copy it again before it is repaired")
    if isinstance(pair.tuned, AdaptedCheckpoint) and (lost := pair.tuned.adapter.unmatched):
        raise ModelError(
            f"{pair.label}: PEFT finds no place for {lost[0]} in this base ({len(lost)} of its "
            f"{len(pair.tuned.adapter.weights.tensors)} tensors), and would leave it out; give the base that the "
            "adapter was trained on, or save it again with the names of this version"
        )
    if pair.structure.model is None:
        raise ModelError(f"{pair.base.label}: no config.json beside the weights; give the folder of the whole model")
    if pair.tuned_names.lora:
        raise ModelError(
            f"{pair.label}: has LoRA factors beside its weights; merge them first (merge_and_unload, save_pretrained), "
            "or give the adapter's own folder"
        )
    missing = [name for name in pair.matching.missing if name not in pair.matching.misnamed]
    if missing:
        raise ModelError(
            f"{pair.label}: {missing[0]} is missing ({len(missing)} tensors in all); run textanchor diff to see what "
            "it holds, and save it again"
        )
    if pair.matching.unmatched:
        raise ModelError(
            f"{pair.label}: {pair.matching.unmatched[0]} of the base is stored in another layout here "
            f"({len(pair.matching.unmatched)} tensors in all), so it could not be repaired; of both models, {IN_MEMORY}"
        )
    _refuse_other_model(pair)
    if pair.is_head_untied():
        raise ModelError(
            f"{pair.label}: its output head has come apart from the input embedding, to which the base ties it, so the "
            f"base has no values of its own to go back to; {'' if pair.is_adapter else 'tie them again, or '}{UNTIE}"
        )
    for name, (base_name, tuned_name) in pair.matching.pairs.items():
        first, second = Source(pair.base, base_name).stored.shape, Source(pair.tuned, tuned_name).stored.shape
        if first != second:
            raise ModelError(
                f"{pair.label}: {name} has shape {second}, but {first} in the base; give a base of that shape (of a "
                "vocabulary: model.resize_token_embeddings, then save_pretrained)"
            )
    return pair


def _refuse_other_model(pair: Pair) -> None:
    """Raise ModelError where the tuned folder's configuration is of a model with other tensors than the base's."""
    odd = [*pair.matching.without_place, *pair.matching.added]
    if odd:
        raise ModelError(
            f"{pair.label}: {odd[0]} is in one of both models only ({len(odd)} tensors in all), so the base is none "
            "that this model was tuned from; give that one"
        )
    tied = next((name for name in pair.tuned_structure.tied if name not in pair.structure.tied), None)
    if tied is not None:
        raise ModelError(
            f"{pair.label}: its config.json ties {tied} to {pair.tuned_structure.tied[tied]}, and the base's does not; "
            "set tie_word_embeddings as the base has it, and save the model again"
        )


def load_models(pair: Pair, base: str | Path, *, needs_processor: bool) -> Models:
    """Load the base, and of the tuned checkpoint what differs; ModelError where that cannot be repaired exactly."""
    has_files = pair.base.folder is not None
    model, processor = load_vlm(base) if needs_processor or not has_files else (load_model(base), None)
    state = model.state_dict()
    changed: dict[str, Tensor] = {}
    for name, (_, tuned_name) in pair.matching.pairs.items():
        if name in pair.structure.tied:
            continue
        if name not in state:
            raise ModelError(
                f"{pair.label}: {name} is stored otherwise than this version of Transformers has it in memory; of both "
                f"models, {IN_MEMORY}"
            )
        source = Source(pair.tuned, tuned_name)
        values = source.rows(0, source.stored.num_rows).reshape(source.stored.shape).to(state[name].dtype)
        if not torch.isfinite(values).all():
            raise ModelError(f"{pair.label}: {name} has entries that are NaN or infinite, which no repair can mend")
        if is_changed(state[name], values):
            changed[name] = values
    if not changed:
        raise ModelError(f"{pair.label}: holds the base's weights, so there is nothing to repair")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in changed)
    return Models(model, processor, changed, pair, stored_dtype(pair))


def stored_dtype(pair: Pair) -> torch.dtype:
    """Type of the tuned weights, as most of them are stored; of an adapter's, that of the base."""
    sizes: dict[torch.dtype, int] = {}
    for name, stored in pair.tuned.tensors.items():
        dtype = stored.dtype
        if pair.is_adapter and name in pair.base_names.stored_names:
            dtype = pair.base.tensors[pair.base_names.stored_names[name]].dtype
        if dtype.is_floating_point:
            sizes[dtype] = sizes.get(dtype, 0) + stored.num_bytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def _refuse_quantised(label: str, tensors: Mapping[str, StoredTensor]) -> None:
    name = next((name for name, stored in tensors.items() if stored.quantised), None)
    if name is None:
        return
    kind = tensors[name].quantised
    load = "load it with from_pretrained on a CPU" if kind.startswith("float8") else "call model.dequantize()"
    raise ModelError(
        f"{label}: {name} is quantised ({kind}), so it cannot be changed exactly; give the model as it was before, or "
        f"{load} and write it with save_pretrained(..., save_original_format=False)"
    )


def _refuse_stale_settings(folder: Path) -> None:
    config = folder / "config.json"
    values: Mapping[str, Any] = read_json(config) if config.is_file() else {}
    if values.get("quantization_config"):
        raise ModelError(
            f"{config}: says that the model is quantised (quantization_config), and its weights are not; remove that "
            "entry, so that Transformers loads what the files hold"
        )
