"""How each part of a model is looked for: what the user names, the family table, the library's lookup, a generic rule.

Each search returns the base name and a sentence on how it was found; nothing is guessed: two candidates are an error.
"""

import difflib
from collections.abc import Callable, Sequence

from torch import nn

from textanchor.errors import ModelError
from textanchor.vlm.families import FAMILIES, Family
from textanchor.vlm.names import base_modules, base_parameters, is_within, name_of, unwrapped

BY_USER = "named by the user"


def family_of(model: nn.Module) -> tuple[Family | None, str]:
    """The family's entry in the table, if any, and the `model_type` of the configuration."""
    model_type = getattr(getattr(unwrapped(model), "config", None), "model_type", "unknown")
    return FAMILIES.get(model_type), model_type


def description(model: nn.Module) -> str:
    """Class and model type, for messages."""
    return f"{type(unwrapped(model)).__name__} (model_type {family_of(model)[1]!r})"


def existing(model: nn.Module, path: str) -> str | None:
    """`path` where it is a module or parameter of the model; without a leading `model.` for a model without a head."""
    names = base_modules(model).keys() | base_parameters(model).keys()
    return next((candidate for candidate in (path, path.removeprefix("model.")) if candidate in names), None)


def require_path(model: nn.Module, path: str, argument: str) -> str:
    """`path` as the user gave it, or a ModelError that names the nearest names in the model."""
    names = [*base_modules(model), *base_parameters(model)]
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
    found = _library_lookup(model, "get_encoder", modality="image")
    if found is None:
        raise ModelError(
            f"{description(model)}: no vision tower found (get_encoder(modality='image') finds none). If this is a "
            "vision-language model, name it: find_parts(model, vision_tower='path.of.the.module'), or --vision-tower"
        )
    return found, "get_encoder(modality='image')"


def find_language_model(model: nn.Module, chosen: str | None, tower: str) -> tuple[str, str]:
    """Base name of the language model; it may not hold the tower."""
    family, model_type = family_of(model)
    if chosen is not None:
        found, how = require_path(model, chosen, "language_model"), BY_USER
    elif family is not None and family.language_model is not None:
        found, how = existing(model, family.language_model), f"table entry {model_type!r}"
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
    """Base names of the projector's modules and bare parameters, given the paths of all other parts."""
    if chosen is not None:
        chosen = [chosen] if isinstance(chosen, str) else chosen
        return [require_path(model, path, "projector") for path in chosen], BY_USER
    family, model_type = family_of(model)
    paths = [existing(model, path) for path in family.projector] if family is not None else []
    if found := [path for path in paths if path is not None]:
        return found, f"table entry {model_type!r}"
    candidates = outside(model, known)
    if len(candidates) == 1:
        return candidates, "the only module outside vision tower and language model"
    return _refuse(model, candidates, known)


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
    raise ModelError(
        f"{description(model)}: this family is not in the table, and the projector is not plain to see: {what}. "
        f"Name its modules and bare parameters in the order of the forward pass, such as "
        f"find_parts(model, projector={example}), or --projector for each"
    )


def _library_lookup(model: nn.Module, method: str, **arguments: str) -> str | None:
    """Base name of what the Transformers method returns; None where it returns the model itself or does not exist."""
    model = unwrapped(model)
    lookup: Callable[..., object] | None = getattr(model, method, None)
    found = lookup(**arguments) if callable(lookup) else None
    # both lookups return self when they find nothing
    return (name_of(model, found) or None) if isinstance(found, nn.Module) and found is not model else None
