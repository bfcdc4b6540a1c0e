"""A model's config.json as Transformers reads it; what it rejects, or cannot build, is an error that names the file."""

import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_NAME,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)

from textanchor.errors import ModelError, shown
from textanchor.files import read_json

REJECTIONS: tuple[type[Exception], ...] = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError),
    *(AttributeError, AssertionError, RuntimeError, ImportError, StrictDataclassError),
)
"""What Transformers raises on a file whose types or values it cannot use; it has no error of its own for them."""
MOST_LAYERS = 2_000
"""Modules of one kind, one after another; models have up to some two hundred, and some two thousand experts."""
COUNTS = re.compile(r"(?:^|[_.])(?:layers?|depths?|blocks?|stages|experts)$")
"""Keys that say how many modules are built, such as num_hidden_layers, n_layer, depth, depths, num_local_experts."""


def read_config(name: str, *, local_only: bool) -> PreTrainedConfig:
    """The configuration of a folder or hub id, of a model that takes images and gives text; ModelError for any other.

    Numbers of layers are bounded before anything is built: a million empty layers take hours and all memory.
    """
    place = _place(name)
    if Path(name).is_dir():
        require_buildable(read_json(place), place)
    try:
        if not Path(name).is_dir():
            require_buildable(PreTrainedConfig.get_config_dict(name, local_files_only=local_only)[0], place)
        config = AutoConfig.from_pretrained(name, local_files_only=local_only, trust_remote_code=False)
    except REJECTIONS as error:
        raise ModelError(
            f"{place}: its configuration cannot be used; this version of Transformers must know the model type and "
            f"all values must be of their types. {said_by_transformers(error)}"
        ) from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ModelError(
            f"{name}: model type {config.model_type!r} is no vision-language model (Transformers has no class of "
            "it that takes images and gives text); give one such as LLaVA or Qwen-VL, or 'embedded'"
        )
    return config


def require_buildable(values: Any, place: str) -> None:
    """ModelError naming the key where the content of a config.json is no mapping or asks for too many layers."""
    if not isinstance(values, dict):
        raise ModelError(f"{place}: expected a JSON object, found {shown(values)}; copy or download the file again")
    level: list[tuple[str, Any]] = list(values.items())
    while level:
        for key, value in level:
            if COUNTS.search(key) and isinstance(value, int) and value > MOST_LAYERS:
                raise ModelError(
                    f"{place}: {key} is {shown(value)}, and models of at most {MOST_LAYERS:,} layers are built; copy "
                    "or download the file again"
                )
        level = [inner for key, value in level for inner in _entries(key, value)]


def _entries(place: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"{place}.{key}", entry) for key, entry in value.items()]
    return [(place, entry) for entry in value] if isinstance(value, list) else []


def empty_model(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    """The model that a configuration describes, on the meta device; ModelError where Transformers cannot build it."""
    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except REJECTIONS as error:
        raise ModelError(
            f"{_place(name)}: describes no model that Transformers can build; copy or download the file again. "
            f"{said_by_transformers(error)}"
        ) from error


def said_by_transformers(error: Exception) -> str:
    """The end of an error about a file that Transformers has refused: its own words, cut to 300 characters."""
    return f"Transformers says: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _place(name: str) -> str:
    return str(Path(name) / CONFIG_NAME) if Path(name).is_dir() else name
