"""A PEFT adapter's folder as PEFT reads it: which tensor goes where, and what PEFT does not know.

PEFT is asked on the meta device with stand-ins for the tensors of the file, so neither model nor file is loaded. No
layout of names and no formula of an adapter stands here; what cannot be told from the folder is refused by its name.
"""

import copy
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.diffs.checkpoint import Checkpoint, Problem
from textanchor.diffs.folders import ADAPTER_CONFIG, open_adapter_weights
from textanchor.diffs.loading import ZERO3
from textanchor.diffs.structure import Structure
from textanchor.errors import ModelError, shown
from textanchor.files import read_json
from textanchor.vlm.names import base_modules, joined, peft_layers

MERGE_FIRST = "merge it with PEFT (merge_and_unload, save_pretrained) and give the merged folder"
MERGE_IN_ITS_RUN = (
    "in the run that trained it, merge it (merge_and_unload, save_pretrained), or save it with save_pretrained("
    "..., path_initial_model_for_weight_conversion=...), and give that folder"
)
CHOICES_OF_MODULES = (
    "modules_to_save",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "trainable_token_indices",
    "ensure_weight_tying",
    "modules_to_tie",
    "target_modules_to_tie",
)
"""Settings that choose modules, which is done once one is named; False and None choose none."""
CHANGE_THE_BASE = ("pissa", "olora", "loftq")
"""Starts of LoRA that take something from the base's weights first."""
ROUNDINGS_OF_OTHERS = 4
"""Of kinds that take away first, scale or rotate a weight."""
PEFT_ERRORS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError)
"""What PEFT raises where a configuration is wrong, does not fit a model, or cannot be merged."""


@dataclass(frozen=True, eq=False)
class AdaptedModule:
    """One module of the base that an adapter changes."""

    plain: nn.Module
    """The module as it is in the base, on the meta device."""
    config: Any
    """PEFT's configuration for a model of nothing but this module."""
    file_names: dict[str, str]
    """Tensor of PEFT's layer in place of the module -> its name in the adapter's file."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A PEFT adapter folder, by the model's own names."""

    folder: Path
    config: Any
    """PEFT's configuration of the adapter."""
    weights: Checkpoint
    modules: dict[str, AdaptedModule]
    """Adapted module by its name in the model."""
    whole: dict[str, str]
    """Tensor that the file replaces (modules_to_save, biases) -> its name in the file."""
    unmatched: tuple[str, ...]
    """Names in the file that PEFT loads into nothing."""
    tied: frozenset[str]
    """Tensors that PEFT changes along with those to which the base ties them."""
    unknown_settings: tuple[str, ...]
    """Settings of adapter_config.json that the installed PEFT does not know and leaves out."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the file."""
        return self.weights.problems

    @property
    def roundings(self) -> int:
        """How often merging it rounds numbers of a weight's size: once where it adds a product to the base."""
        start = str(getattr(self.config, "init_lora_weights", ""))
        is_scaled = getattr(self.config, "use_dora", False) or getattr(self.config, "kasa_config", None)
        is_sum = self.config.peft_type == "LORA" and not is_scaled and not start.startswith(CHANGE_THE_BASE)
        return 1 if is_sum else ROUNDINGS_OF_OTHERS


def read_adapter(folder: Path, structure: Structure) -> Adapter:
    """The adapter of a folder, as PEFT applies it to the model of `structure`.

    ModelError where it is pickled, does not fit that model, changes no weights, or counts from weights that the folder
    does not hold.
    """
    if structure.model is None:
        raise ModelError(
            f"{folder}: an adapter needs the model that it is for; give the base's folder with config.json"
        )
    settings: Mapping[str, Any] = read_json(folder / ADAPTER_CONFIG)
    config = _config(folder, settings)
    _require_comparable(folder, config)
    weights = _without_gaps(open_adapter_weights(folder))
    fields = {field.name for field in dataclasses.fields(config)}
    unknown = tuple(key for key, value in settings.items() if value and key not in fields)
    if weights.problems:  # PEFT loads nothing from a file that is cut off
        return Adapter(folder, config, weights, {}, {}, (), frozenset(), unknown)
    with asking_peft(folder, "apply it to this base", "give the base that it was trained on"):
        model = _peft_model(structure, config)
        placed = _placed(folder, model, weights)
        modules, whole, unmatched = _sorted(folder, model, placed, weights)
        tied = frozenset(joined(path, "weight") for path, layer in peft_layers(model).items() if _is_tied(layer))
    return Adapter(folder, config, weights, modules, whole, unmatched, tied, unknown)


def _without_gaps(weights: Checkpoint) -> Checkpoint:
    """The same, with a problem where the file holds no tensors, or tensors without entries."""
    empty = [name for name, stored in weights.tensors.items() if 0 in stored.shape]
    if weights.problems or (weights.tensors and not empty):
        return weights
    if empty:
        first = weights.tensors[empty[0]].shape
        what = f"holds {len(empty)} of {len(weights.tensors)} tensors empty, of shape {first} ({empty[0]}), {ZERO3}"
    else:
        what = f"holds no tensors, {ZERO3}"
    return replace(weights, problems=(Problem(weights.files[0], what),))


@contextmanager
def asking_peft(folder: Path, what: str, way_out: str) -> Iterator[None]:
    """A call of PEFT: what it refuses becomes a ModelError; its warnings and random numbers stay with it."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            yield
        except PEFT_ERRORS as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{folder}: PEFT cannot {what} ({type(error).__name__}: {reason}); {way_out}") from error


def _config(folder: Path, settings: Mapping[str, Any]) -> Any:
    from peft import PeftConfig

    if not isinstance(settings, dict):
        raise ModelError(
            f"{folder / ADAPTER_CONFIG}: expected a JSON object, found {shown(settings)}; copy or download it again"
        )
    with asking_peft(
        folder, f"read {ADAPTER_CONFIG}", f"found peft_type {settings.get('peft_type')!r}: check the file"
    ):
        return PeftConfig.from_pretrained(str(folder))


def _require_comparable(folder: Path, config: Any) -> None:
    """Raise ModelError for adapters that are no change of the base's weights, or of other weights than the base's."""
    kind = str(config.peft_type.value)
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ModelError(
            f"{folder}: {kind} adds inputs and changes no weights, so there is nothing to compare or to repair"
        )
    start = str(getattr(config, "init_lora_weights", ""))
    if start == "lora_ga" or start.startswith(("corda", "pissa_niter_")):
        whence = "a random SVD" if start.startswith("pissa") else "data of the run that trained it"
        raise ModelError(
            f"{folder}: the adapter started as {start}, so it counts from weights that were made of the base by "
            f"{whence} and are not in the folder; {MERGE_IN_ITS_RUN}"
        )
    if getattr(config, "layer_replication", None):
        raise ModelError(
            f"{folder}: the adapter has layer_replication, so its model has other layers than the base and cannot be "
            "compared with it tensor by tensor"
        )


def _peft_model(structure: Structure, config: Any) -> Any:
    """The base under the adapter's layers, on the meta device, where no start can be made of the base's weights."""
    from peft import get_peft_model

    config, start = copy.deepcopy(config), getattr(config, "init_lora_weights", None)
    if start is not None:
        config.init_lora_weights = True
    model: Any = get_peft_model(structure.empty_model(), config, low_cpu_mem_usage=True)
    if start is not None:
        model.peft_config["default"].init_lora_weights = start
    return model


def _placed(folder: Path, model: Any, weights: Checkpoint) -> dict[str, str]:
    """Name in the PEFT model's state dict -> name in the file, by PEFT's own loading."""
    from peft import set_peft_model_state_dict

    stand_ins = {n: torch.empty(t.shape, dtype=t.dtype, device="meta") for n, t in weights.tensors.items()}
    names = {id(tensor): name for name, tensor in stand_ins.items()}
    placed: dict[str, str] = {}

    def take(_module: nn.Module, state: dict[str, Tensor], *_rest: Any) -> None:
        made = next((key for key, tensor in state.items() if id(tensor) not in names), None)
        if made is not None:
            raise ModelError(f"{folder}: PEFT makes {made} of several tensors, as layouts differ; {MERGE_FIRST}")
        placed.update({key: names[id(tensor)] for key, tensor in state.items()})
        state.clear()  # nothing is to be copied

    hook = model.register_load_state_dict_pre_hook(take)
    set_peft_model_state_dict(model, stand_ins)
    hook.remove()
    return placed


def _sorted(
    folder: Path, model: Any, placed: dict[str, str], weights: Checkpoint
) -> tuple[dict[str, AdaptedModule], dict[str, str], tuple[str, ...]]:
    """Adapted modules, replaced tensors, and names in the file that have no place; ModelError at another shape."""
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    for key, name in placed.items():
        if key in shapes and shapes[key] != weights.tensors[name].shape:
            raise ModelError(
                f"{folder}: {name} has shape {weights.tensors[name].shape}, where this base takes {shapes[key]}; give "
                "the base that the adapter was trained on"
            )
    keys = {id(module): key for key, module in model.named_modules()}
    plain = base_modules(model)
    own_names = {
        joined(keys[id(module)], tensor): joined(name, tensor)
        for name, module in plain.items()
        for tensor in (*module._parameters, *module._buffers)
    }
    whole = {own_names[key]: name for key, name in placed.items() if key in own_names}
    modules = {}
    for path, layer in peft_layers(model).items():
        prefix = f"{keys[id(layer)]}."
        inside = {k.removeprefix(prefix): n for k, n in placed.items() if k.startswith(prefix) and k in shapes}
        if any(prefix + key not in own_names for key in inside):
            modules[path] = AdaptedModule(plain[path], _for_module(model.peft_config["default"], path, layer), inside)
    return modules, whole, tuple(name for key, name in placed.items() if key not in shapes)


def _is_tied(layer: nn.Module) -> bool:
    """Whether PEFT computes a layer with the rows that it trains of another one."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    return isinstance(layer, TrainableTokensLayer) and layer.tied_adapter is not None


def _for_module(config: Any, path: str, layer: nn.Module) -> Any:
    """The adapter's configuration for a model of nothing but the module at `path`, which `layer` adapts."""
    from peft import TrainableTokensConfig
    from peft.tuners.lora.layer import ParamWrapper
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    if isinstance(layer, TrainableTokensLayer):  # may stand beside LoRA on other modules
        return TrainableTokensConfig(target_modules=[path], token_indices=layer.token_indices["default"])
    config = copy.deepcopy(config)
    of_parameters = isinstance(layer, ParamWrapper)  # chosen by the parameters' own names
    config.target_modules = [] if of_parameters else [path]
    for setting in CHOICES_OF_MODULES if of_parameters else (*CHOICES_OF_MODULES, "target_parameters"):
        if hasattr(config, setting):
            setattr(config, setting, None)
    return config
