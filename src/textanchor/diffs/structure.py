"""What the names in a checkpoint mean: the model's own names by Transformers' rules, and the part of each tensor.

The model is built from config.json without any weights. Transformers renames keys as it loads, and has renamed them
between its versions; its own mapping is asked, so a name is known here exactly where it is known there.
"""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from textanchor.errors import ModelError
from textanchor.holds.legal import writes_text
from textanchor.tables import PART_TITLES
from textanchor.vlm.families import FAMILIES
from textanchor.vlm.loading import described_model
from textanchor.vlm.names import is_within, without_wrappers
from textanchor.vlm.parts import VLMParts, find_outer_parts, find_parts

GROUPS = tuple(PART_TITLES)
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
    also: tuple[str, ...]
    """Other tensors of the model that are made of the same stored one, such as keys and values of a fused weight."""
    is_wrapped: bool
    """Whether names of a wrapper (PEFT, DDP, torch.compile) had to be taken off, which Transformers does not do."""


@dataclass(frozen=True)
class PartNames:
    """Paths of the parts that the user names, as `find_parts` takes them; what is left out is looked for."""

    vision_tower: str | None = None
    projector: str | Sequence[str] | None = None
    language_model: str | None = None

    @property
    def any(self) -> bool:
        """Whether one is named."""
        return self != ALL_LOOKED_FOR


ALL_LOOKED_FOR = PartNames()


@dataclass(frozen=True, eq=False)
class Structure:
    """The model's own tensors and parts; without config.json (`model` None) names are read as they stand."""

    model: Any = None
    """The Transformers model; its weights may be on the meta device."""
    parts: VLMParts | None = None
    """Where the parts are; without a projector where it was not found, None where none was."""
    not_found: str = ""
    """Why the projector, or every part, was not found."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    """Tensor -> tensor whose values it shares."""
    _renamings: list[Any] = field(default_factory=list, repr=False)
    _converters: list[Any] = field(default_factory=list, repr=False)

    @classmethod
    def of_names(cls, folder: Path) -> "Structure":
        """The model's own tensors, by config.json of a folder; no parts are looked for. ModelError as `of_folder`."""
        return cls._of(described_model(folder), None, "")

    @classmethod
    def of_model(cls, model: Any, names: PartNames = ALL_LOOKED_FOR) -> "Structure":
        """Structure of a Transformers vision-language model; ModelError where a part that is named is none of it.

        A family whose parts are not plain to see still has names and shapes: `not_found` says what is missing.
        """
        return cls._of(model, *_found_parts(model, names))

    @classmethod
    def _of(cls, model: Any, parts: VLMParts | None, not_found: str) -> "Structure":
        transforms = get_model_conversion_mapping(model)
        return cls(
            model=model,
            parts=parts,
            not_found=not_found,
            shapes={name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
            tied=dict(getattr(model, "all_tied_weights_keys", None) or {}),
            _renamings=[t for t in transforms if isinstance(t, WeightRenaming)],
            _converters=[t for t in transforms if isinstance(t, WeightConverter)],
        )

    @classmethod
    def of_folder(cls, folder: Path, names: PartNames = ALL_LOOKED_FOR) -> "Structure":
        """Structure of the model that config.json describes; ModelError where Transformers has no such model."""
        try:
            model = described_model(folder)
        except ModelError as error:
            raise ModelError(
                f"{error}. To compare tensors by their names alone, give state dicts: ta.diff(base_tensors, "
                "tuned_tensors) in Python"
            ) from error
        return cls.of_model(model, names)

    def empty_model(self) -> Any:
        """The model without weights, on the meta device; a new one at each call."""
        with torch.device("meta"):
            return type(self.model)(copy.deepcopy(self.model.config))

    def place(self, stored_name: str) -> Place:
        """What a stored name stands for."""
        plain = without_wrappers(stored_name)
        if self.model is None:
            return Place(plain, plain, (), plain != stored_name)
        name, _ = self._renamed(plain, self._renamings, [])
        loaded, source = self._renamed(plain, self._renamings, self._converters)
        also = () if source is None else self._also_made(loaded, source)
        return Place(name, loaded if loaded in self.shapes else None, also, plain != stored_name)

    def _also_made(self, loaded: str, source: str) -> tuple[str, ...]:
        """What a converter makes beside `loaded`, which bears the name of its first target."""
        converter = next(c for c in self._converters if source in c.source_patterns)
        first, *others = converter.target_patterns
        names = (loaded.replace(first, other) for other in others)
        return tuple(name for name in names if name in self.shapes and name != loaded)

    def _renamed(self, name: str, renamings: list[Any], converters: list[Any]) -> tuple[str, str | None]:
        prefix = self.model.base_model_prefix
        renamed, source = rename_source_key(name, renamings, converters, prefix, self.shapes)
        if renamed not in self.shapes and name in self.shapes:  # as at loading: the model's own names stay
            return rename_source_key(name, [], [], prefix, self.shapes)
        return renamed, source

    def group_of_stored(self, stored_name: str) -> str:
        """One of GROUPS, for a name in any file: by the words in it where Transformers does not know it."""
        place = self.place(stored_name)
        return _group_by_words(place.name) if place.loaded_as is None else self.group_of(place.loaded_as)

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


def _found_parts(model: Any, names: PartNames) -> tuple[VLMParts | None, str]:
    try:
        return find_parts(model, **vars(names)), ""
    except ModelError as error:
        if names.any:
            raise
        reason = str(error)
    try:
        return find_outer_parts(model), reason
    except ModelError:
        return None, reason


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
