"""What the names in a checkpoint mean: the model's own names by Transformers' rules, and the part of each tensor.

The model is built from config.json without any weights. Transformers renames keys as it loads, and has renamed them
between its versions; its own mapping is asked, so a name is known here exactly where it is known there.
"""

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoModelForImageTextToText
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from textanchor.errors import ModelError
from textanchor.holds.legal import writes_text
from textanchor.report.readings import PART_TITLES
from textanchor.vlm.families import FAMILIES
from textanchor.vlm.names import is_within
from textanchor.vlm.parts import VLMParts, find_parts

GROUPS = tuple(PART_TITLES)
WRAPPERS = ("base_model.model.", "module.", "_orig_mod.")
INNER_WRAPPERS = (".base_layer.", ".modules_to_save.default.")
NEVER_LOADED = re.compile(r"rotary_emb\.inv_freq$|position_ids$|num_batches_tracked$")
"""Buffers that old versions saved and no version needs."""

TOWER_WORDS = ("vision_tower", "vision_model", "visual", "vision_encoder")
HEAD_WORDS, EMBEDDING_WORDS = ("lm_head",), ("embed_tokens",)


@dataclass(frozen=True)
class Place:
    """What a stored name stands for."""

    name: str
    """The model's own name, under which two checkpoints are matched."""
    loaded_as: str | None
    """Name that Transformers gives it at loading; None where it knows no such tensor."""
    is_wrapped: bool
    """Whether names of a wrapper (PEFT, DDP, torch.compile) had to be taken off, which Transformers does not do."""


@dataclass(frozen=True, eq=False)
class Structure:
    """The model's own tensors and parts; without config.json (`parts` None) names are read as they stand."""

    parts: VLMParts | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    """Tensor -> tensor whose values it shares."""
    _renamings: list[Any] = field(default_factory=list, repr=False)
    _converters: list[Any] = field(default_factory=list, repr=False)
    _prefix: str = ""

    @classmethod
    def of_model(cls, model: Any) -> "Structure":
        """Structure of a Transformers vision-language model; its weights may be on the meta device."""
        transforms = get_model_conversion_mapping(model)
        return cls(
            parts=find_parts(model),
            shapes={name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
            tied=dict(getattr(model, "all_tied_weights_keys", None) or {}),
            _renamings=[t for t in transforms if isinstance(t, WeightRenaming)],
            _converters=[t for t in transforms if isinstance(t, WeightConverter)],
            _prefix=model.base_model_prefix,
        )

    @classmethod
    def of_folder(cls, folder: Path) -> "Structure":
        """Structure of the model that config.json describes; ModelError where Transformers has no such model."""
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{folder / 'config.json'}: cannot be used ({' '.join(str(error).split())[:200]}); this version of "
                "Transformers must know the model type"
            ) from error
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise ModelError(
                f"{folder / 'config.json'}: model type {config.model_type!r} is no vision-language model; give the "
                "weight files themselves to compare them by name"
            )
        with torch.device("meta"):
            return cls.of_model(AutoModelForImageTextToText.from_config(config))

    def empty_model(self) -> Any:
        """The model without weights, on the meta device; a new one at each call."""
        assert self.parts is not None
        model: Any = self.parts.model
        with torch.device("meta"):
            return type(model)(copy.deepcopy(model.config))

    def place(self, stored_name: str) -> Place:
        """What a stored name stands for."""
        plain = without_wrappers(stored_name)
        if self.parts is None:
            return Place(plain, plain, plain != stored_name)
        name, _ = self._renamed(plain, self._renamings, [])
        loaded, _ = self._renamed(plain, self._renamings, self._converters)
        return Place(name, loaded if loaded in self.shapes else None, plain != stored_name)

    def _renamed(self, name: str, renamings: list[Any], converters: list[Any]) -> tuple[str, str | None]:
        return rename_source_key(name, renamings, converters, self._prefix, self.shapes)

    def group(self, place: Place) -> str:
        """One of GROUPS."""
        return self.group_of(place.loaded_as or place.name)

    def group_of(self, name: str) -> str:
        """One of GROUPS, for a name of the model's own."""
        if self.parts is None:
            return _group_by_words(name)
        if is_within(name, self.parts.projector):
            return "projector"
        if is_within(name, self.parts.input_embedding):
            return "embedding"
        if self.parts.output_head is not None and is_within(name, self.parts.output_head):
            return "head"
        return self.parts.part_of(name)

    def writes_text(self, name: str) -> bool:
        """Whether a tensor is the weight of a linear that writes into text space."""
        module, _, kind = name.rpartition(".")
        if self.parts is None or kind != "weight":
            return False
        if self.group_of(name) == "language_model":
            return writes_text(module)
        return module == self._last_projector_linear

    @cached_property
    def _last_projector_linear(self) -> str | None:
        assert self.parts is not None
        try:
            return self.parts.last_projector_linear()[0]
        except ModelError:  # a bare parameter, or no linear as wide as text space
            return None

    def names_of(self, group: str) -> list[str]:
        """The model's own names in a group, tied ones left out."""
        return [name for name in self.shapes if name not in self.tied and self.group_of(name) == group]


def without_wrappers(name: str) -> str:
    """A name without what PEFT, DDP and torch.compile put into it."""
    while name.startswith(WRAPPERS):
        name = next(name.removeprefix(wrapper) for wrapper in WRAPPERS if name.startswith(wrapper))
    for wrapper in INNER_WRAPPERS:
        name = name.replace(wrapper, ".")
    return name


def _group_by_words(name: str) -> str:
    """The group by the words that families use; the projector first, as it may lie in the tower's module."""
    if _holds(name, _projector_paths()):
        return "projector"
    if _holds(name, TOWER_WORDS):
        return "vision_tower"
    if _holds(name, HEAD_WORDS):
        return "head"
    return "embedding" if _holds(name, EMBEDDING_WORDS) else "language_model"


def _projector_paths() -> set[str]:
    return {path.removeprefix("model.") for family in FAMILIES.values() for path in family.projector} | {"mm_projector"}


def _holds(name: str, paths: Iterable[str]) -> bool:
    return any(f".{path}." in f".{name}." for path in paths)
