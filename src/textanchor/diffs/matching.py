"""Which tensor of one checkpoint is which of the other, and what has no counterpart."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from textanchor.diffs.checkpoint import Checkpoint
from textanchor.diffs.headers import StoredTensor
from textanchor.diffs.structure import NEVER_LOADED, Place, Structure

LORA_FACTOR = re.compile(r"\.(lora_(embedding_)?[AB]|lora_magnitude_vector)(\.|$)")
"""Within names in a full checkpoint."""
PEFT_COPY = re.compile(r"\.original_module\.")
"""What `modules_to_save` keeps of a module as it was; nothing computes with it."""
NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True, eq=False)
class NamedTensors:
    """The tensors of one checkpoint by the model's own names."""

    stored_names: dict[str, str]
    """The model's own name -> name in the file."""
    places: dict[str, Place]
    """The model's own name -> what it stands for."""
    lora: tuple[str, ...]
    """Names in the file of LoRA factors inside a full checkpoint."""
    unexpected: tuple[str, ...]
    """Names in the file that Transformers knows no tensor for."""

    @property
    def covered(self) -> frozenset[str]:
        """Tensors of the model that this checkpoint fills, once wrappers' names are taken off."""
        filled = [(place.loaded_as, *place.also) for place in self.places.values() if place.loaded_as is not None]
        return frozenset(name for names in filled for name in names)

    @property
    def wrapped(self) -> tuple[str, ...]:
        """Names in the file that bear a wrapper's names."""
        return tuple(self.stored_names[name] for name, place in self.places.items() if place.is_wrapped)


def named_tensors(stored_names: Iterable[str], structure: Structure, *, any_wrapper: bool = False) -> NamedTensors:
    """Sort the names of a checkpoint by what they stand for; with `any_wrapper` those of wrapped models are as good."""
    found = NamedTensors({}, {}, (), ())
    lora, unexpected = [], []
    for stored_name in stored_names:
        if LORA_FACTOR.search(stored_name):
            lora.append(stored_name)
        elif not PEFT_COPY.search(stored_name) and not NEVER_LOADED.search(stored_name):
            place = structure.place(stored_name)
            place = replace(place, is_wrapped=place.is_wrapped and not any_wrapper)
            if place.loaded_as is None or place.name in found.places:
                unexpected.append(stored_name)
            else:
                found.stored_names[place.name], found.places[place.name] = stored_name, place
    return NamedTensors(found.stored_names, found.places, tuple(lora), tuple(unexpected))


@dataclass(frozen=True, eq=False)
class Matching:
    """Pairs and the rest, by the model's own names."""

    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name -> (name in the base, name in the tuned checkpoint)."""
    missing: tuple[str, ...] = ()
    """Tensors that the tuned model should have and its checkpoint does not fill, tied ones aside."""
    without_place: tuple[str, ...] = ()
    """Tensors of the base for which the tuned folder's configuration has no place."""
    added: tuple[str, ...] = ()
    """Tensors that the tuned checkpoint has and the base has not."""
    misnamed: dict[str, str] = field(default_factory=dict)
    """Missing tensor -> unexpected name in the tuned file whose tensor has its shape and place in the order."""
    renamed: int = 0
    """Pairs whose names in the files differ, both known to Transformers."""
    not_built: tuple[str, ...] = ()
    """Names in both files of tensors that Transformers builds no module for, as of multi-token prediction heads."""
    dropped: tuple[str, ...] = ()
    """Names of such tensors in the base's file that the tuned one lacks."""
    unmatched: tuple[str, ...] = ()
    """Tensors of the base that the tuned checkpoint fills from tensors of another layout, such as fused experts."""


def match(
    base: NamedTensors,
    base_checkpoint: Checkpoint,
    tuned: NamedTensors,
    tuned_checkpoint: Checkpoint,
    structure: Structure,
    *,
    tuned_structure: Structure | None = None,
    not_loaded: Sequence[str] | None = None,
) -> Matching:
    """Match two checkpoints: by the model's own names, and what is left of the projector by shapes in their order.

    `tuned_structure`: that of the tuned folder, where it is another. `not_loaded`: what Transformers finds missing in
    it; where it was not asked, what the base has and the tuned checkpoint has not.
    """
    known = (tuned_structure or structure).shapes
    without_place = tuple(n for n in structure.shapes if n not in known and n in base.covered) if known else ()
    pairs = {
        name: (base.stored_names[name], tuned.stored_names[name])
        for name in base.stored_names
        if name in tuned.stored_names
    }
    renamed = sum(
        first != second and not base.places[name].is_wrapped and not tuned.places[name].is_wrapped
        for name, (first, second) in pairs.items()
    )
    tied = structure.tied if tuned_structure is None else {**tuned_structure.tied, **structure.tied}
    for name, source in tied.items():  # a head that only one of both saved beside its embedding
        first, second = (names.stored_names.get(name, names.stored_names.get(source)) for names in (base, tuned))
        is_saved = name in base.stored_names or name in tuned.stored_names
        if name not in pairs and is_saved and first is not None and second is not None:
            pairs[name] = (first, second)
    missing = _missing(base, tuned, structure) if not_loaded is None else tuple(not_loaded)
    loose = {
        name: base_checkpoint.tensors[base.stored_names[name]]
        for name in missing
        if name in base.stored_names and structure.group_of(name) == "projector"
    }
    unexpected = {name: tuned_checkpoint.tensors[name] for name in tuned.unexpected}
    misnamed = _by_shape(loose, unexpected)
    pairs |= {name: (base.stored_names[name], file_name) for name, file_name in misnamed.items()}
    added = tuple(name for name in tuned.stored_names if name not in pairs)
    left = {*missing, *without_place}
    unmatched = tuple(name for name in base.stored_names if name not in pairs and not _leads_to(base, name, left))
    kept = {structure.place(name).name for name in tuned.unexpected}
    not_built, dropped = [], []
    for name in base.unexpected:
        (not_built if structure.place(name).name in kept else dropped).append(name)
    return Matching(
        pairs, missing, without_place, added, misnamed, renamed, tuple(not_built), tuple(dropped), unmatched
    )


def _leads_to(names: NamedTensors, name: str, targets: Collection[str]) -> bool:
    """Whether a stored tensor is one of the model's `targets`, or is made into one at loading."""
    return name in targets or names.places[name].loaded_as in targets


def _missing(base: NamedTensors, tuned: NamedTensors, structure: Structure) -> tuple[str, ...]:
    filled = tuned.covered
    loose = {name for name in base.covered - filled if structure.tied.get(name) not in filled}
    order = {name: i for i, name in enumerate(structure.shapes or base.stored_names)}
    return tuple(sorted(loose, key=lambda name: order.get(name, len(order))))


def _by_shape(missing: dict[str, StoredTensor], unexpected: dict[str, StoredTensor]) -> dict[str, str]:
    """Missing -> unexpected, where for every kind (last name and shape) there are as many of one as of the other."""

    def by_kind(tensors: dict[str, StoredTensor]) -> dict[tuple[str, tuple[int, ...]], list[str]]:
        kinds = defaultdict(list)
        for name in sorted(tensors, key=_natural):
            kinds[name.rpartition(".")[2], tensors[name].shape].append(name)
        return kinds

    wanted, offered = by_kind(missing), by_kind(unexpected)
    if not wanted or any(len(names) != len(offered.get(kind, ())) for kind, names in wanted.items()):
        return {}
    return {name: other for kind, names in wanted.items() for name, other in zip(names, offered[kind], strict=True)}


def _natural(name: str) -> list[str | int]:
    """Key that sorts layer 10 after layer 2."""
    return [int(piece) if piece.isdigit() else piece for piece in NUMBER.split(name)]
