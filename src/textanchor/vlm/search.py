"""How each part of a model is looked for: what the user names, the family table, the library's lookup, a generic rule.

Each search returns the base name and a sentence on how it was found; nothing is guessed: two candidates are an error.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from textanchor.errors import ModelError
from textanchor.vlm.families import FAMILIES, Family
from textanchor.vlm.names import base_modules, base_parameters, is_within, name_of, unwrapped

BY_USER = "named by the user"
_WHAT_IT_TAKES = (
    "What is asked for needs a vision tower and a projector between it and the language model; if you mean modules of "
    "this model by these words, name them: find_parts(model, vision_tower=..., projector=..., language_model=...), or "
    "--vision-tower, --projector, --language-model"
)


def family_of(model: nn.Module) -> tuple[Family | None, str]:
    """The family's entry in the table, if any, and the `model_type` of the configuration."""
    model_type = getattr(getattr(unwrapped(model), "config", None), "model_type", "unknown")
    return FAMILIES.get(model_type), model_type


def description(model: nn.Module) -> str:
    """Class and model type, for messages."""
    return f"{type(unwrapped(model)).__name__} (model_type {family_of(model)[1]!r})"


def all_names(model: nn.Module) -> list[str]:
    """Base names of all modules and parameters."""
    return [*base_modules(model), *base_parameters(model)]


def existing(names: Sequence[str], path: str) -> list[str]:
    """The names of a model that a path of the family table means; `model.` falls away for a model without a head."""
    for candidate in (path, f"{path}.".removeprefix("model.").removesuffix(".")):
        pattern = r"\d+".join(re.escape(piece) for piece in re.split(r"\*|-1", candidate))
        if found := [name for name in names if re.fullmatch(pattern, name)]:
            return found[-1:] if "-1" in path else found
    return []


def require_path(model: nn.Module, path: str, argument: str) -> str:
    """`path` as the user gave it, or a ModelError that names the nearest names in the model."""
    names = all_names(model)
    if path and path in names:
        return path
    near = difflib.get_close_matches(path, names, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ModelError(
        f"{description(model)}: {argument}={path!r} is neither a module nor a parameter of the model{hint}"
    )


def find_tower(model: nn.Module, chosen: str | None) -> tuple[str, str]:
    """Base name of the vision tower."""
    if chosen is not None:
        return require_path(model, chosen, "vision_tower"), BY_USER
    if listed := _in_table(model, "vision_tower"):
        return listed
    if found := _library_lookup(model, "get_encoder", modality="image"):
        return found, "get_encoder(modality='image')"
    family, _ = family_of(model)
    config = getattr(unwrapped(model), "config", None)
    if family is not None and family.lacks:
        raise ModelError(f"{description(model)}: {family.lacks}. {_WHAT_IT_TAKES}")
    if config is not None and getattr(config, "vision_config", config) is None:
        raise ModelError(
            f"{description(model)}: it has no vision tower: its configuration has no vision_config. {_WHAT_IT_TAKES}"
        )
    raise ModelError(
        f"{description(model)}: no vision tower found (get_encoder(modality='image') finds none). If this is a "
        "vision-language model, name it: find_parts(model, vision_tower='path.of.the.module'), or --vision-tower"
    )


def find_language_model(model: nn.Module, chosen: str | None, tower: str) -> tuple[str, str]:
    """Base name of the language model; only what the family table gives may hold the tower."""
    if chosen is None and (listed := _in_table(model, "language_model")):
        return listed
    if chosen is not None:
        found, how = require_path(model, chosen, "language_model"), BY_USER
    else:
        found, how = _library_lookup(model, "get_decoder"), "get_decoder()"
    if found is None or is_within(tower, found):
        what = "finds none" if found is None else f"gives {found!r}, which also holds the vision tower {tower!r}"
        raise ModelError(
            f"{description(model)}: no language model found ({how} {what}). Name it: "
            "find_parts(model, language_model='path.of.the.module'), or --language-model"
        )
    return found, how


def find_projector(model: nn.Module, chosen: str | Sequence[str] | None, known: Sequence[str]) -> tuple[list[str], str]:
    """Base names of the projector's modules and bare parameters, given the paths of all other parts.

    A family outside the table has one where it is the only module outside the others; an encoder of sound or of
    anything else is a model of its own, and never taken for it.
    """
    if chosen is not None:
        chosen = [chosen] if isinstance(chosen, str) else chosen
        return [require_path(model, path, "projector") for path in chosen], BY_USER
    family, model_type = family_of(model)
    candidates = outside(model, known)
    if family is not None:
        names = all_names(model)
        if found := [name for path in family.projector for name in existing(names, path)]:
            return found, f"table entry {model_type!r}"
    elif len(candidates) == 1 and not _is_model(base_modules(model).get(candidates[0])):
        return candidates, "the only module outside vision tower and language model"
    return _refuse(model, candidates, known)


def find_embedding(model: nn.Module, language_model: str) -> tuple[str, str]:
    """Base name of the input embedding: the one of the whole model where it reads text, else the language model's."""
    modules = base_modules(model)
    for owner, how in _owners(model, language_model):
        try:
            found = owner.get_input_embeddings()
        except (AttributeError, NotImplementedError):  # no Transformers model, and one that says it has none
            continue
        name = name_of(model, found) if isinstance(found, nn.Module) else None
        if name is not None and isinstance(modules[name], nn.Embedding):
            return name, f"get_input_embeddings(){how}"
    raise ModelError(
        f"{description(model)}: get_input_embeddings() gives no embedding, neither of the model nor of "
        f"{language_model!r}; name the language model as the Transformers model that holds its embedding"
    )


def find_head(model: nn.Module, language_model: str) -> tuple[str | None, str]:
    """Base name of the linear from states to logits; None for a model without a head."""
    for owner, how in _owners(model, language_model):
        lookup: Callable[[], object] | None = getattr(owner, "get_output_embeddings", None)
        # Transformers gives none where it finds no input embedding, and the model has a head all the same
        found = (lookup() if lookup is not None else None) or getattr(owner, "lm_head", None)
        if isinstance(found, nn.Module) and (name := name_of(model, found)) is not None:
            return name, f"get_output_embeddings(){how}"
    return None, "none"


def _owners(model: nn.Module, language_model: str) -> list[tuple[Any, str]]:
    return [(unwrapped(model), ""), (base_modules(model)[language_model], " of the language model")]


def outside(model: nn.Module, known: Sequence[str]) -> list[str]:
    """Topmost modules and bare parameters that have weights and neither hold nor lie in one of the known parts."""
    found: list[str] = []
    for name in base_parameters(model):
        steps = name.split(".")
        tops = (".".join(steps[: i + 1]) for i in range(len(steps)))
        top = next(top for top in tops if top == name or not any(is_within(path, top) for path in known))
        if not is_within(top, known) and top not in found:
            found.append(top)
    return found


def _refuse(model: nn.Module, candidates: list[str], known: Sequence[str]) -> tuple[list[str], str]:
    if candidates:
        example = str(candidates[:1])
        what = f"outside vision tower {known[0]!r} and language model {known[1]!r} lie {', '.join(candidates)}"
    else:
        children = [name for name, _ in base_modules(model)[known[0]].named_children()]
        example = str([f"{known[0]}.{name}" for name in children[-1:]])
        what = f"nothing lies outside {known[0]!r} and {known[1]!r}; in the tower are {', '.join(children)}"
    family, _ = family_of(model)
    if family is not None and family.lacks:
        raise ModelError(f"{description(model)}: {family.lacks}. {_WHAT_IT_TAKES}")
    known_as = "this family is not in the table" if family is None else "the table's projector is not in this model"
    raise ModelError(
        f"{description(model)}: {known_as}, and the projector is not plain to see: {what}. Name its modules and bare "
        f"parameters in the order of the forward pass, such as find_parts(model, projector={example}), or --projector "
        "for each"
    )


def _is_model(module: nn.Module | None) -> bool:
    """Whether a module is a Transformers model, which is an encoder or a decoder; a projector is a plain module."""
    return hasattr(module, "main_input_name")


def _in_table(model: nn.Module, part: str) -> tuple[str, str] | None:
    """Base name of the vision tower or language model by the family table, where it names one that exists."""
    family, model_type = family_of(model)
    path = None if family is None else getattr(family, part)
    found = existing(all_names(model), path) if path is not None else []
    return (found[0], f"table entry {model_type!r}") if found else None


def _library_lookup(model: nn.Module, method: str, **arguments: str) -> str | None:
    """Base name of what the Transformers method returns; None where it returns the model itself or does not exist."""
    model = unwrapped(model)
    lookup: Callable[..., object] | None = getattr(model, method, None)
    found = lookup(**arguments) if callable(lookup) else None
    # both lookups return self when they find nothing
    return (name_of(model, found) or None) if isinstance(found, nn.Module) and found is not model else None
