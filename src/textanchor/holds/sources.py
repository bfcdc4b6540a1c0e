"""Names of the states that directions come from, and what each must be asked for with.

| basis | states |
| --- | --- |
| inputs | what enters the linear itself: text in the language model, images in the projector |
| text_embedding | rows of the input embedding, weighted by how often the texts use their tokens |
| hidden:l | states of the texts after l layers of the language model |
| text_sensitivity | gradients of the language-model loss on the texts, at the input embedding's outputs: E[g g^T] |
| reference_sensitivity | gradients at the projector's outputs on reference images with their questions: E[g g^T] |
| visual | what the projector gives on reference images |
| random, random_energy, bottom, identity | controls, see `bases.py` |
"""

import re

from textanchor.errors import ConfigError

TEXT_EMBEDDING, OWN_INPUTS, VISUAL = "text_embedding", "inputs", "visual"
TEXT_SENSITIVITY, REFERENCE_SENSITIVITY = "text_sensitivity", "reference_sensitivity"
RANDOM, RANDOM_ENERGY, BOTTOM, IDENTITY = "random", "random_energy", "bottom", "identity"
HIDDEN = re.compile(r"hidden:(\d+)")

CONTROLS = (RANDOM, RANDOM_ENERGY, BOTTOM, IDENTITY)
SENSITIVITIES = (TEXT_SENSITIVITY, REFERENCE_SENSITIVITY)
OF_OUTPUTS = (TEXT_EMBEDDING, *SENSITIVITIES, VISUAL)


def is_gathered(basis: str) -> bool:
    """Whether `fit_anchor` gathers these states only when it is asked to."""
    return basis in (*SENSITIVITIES, VISUAL) or HIDDEN.fullmatch(basis) is not None


def takes_images(basis: str) -> bool:
    """Whether these states need reference images."""
    return basis in (VISUAL, REFERENCE_SENSITIVITY)


def hidden_layer(basis: str) -> int | None:
    """The l of hidden:l."""
    found = HIDDEN.fullmatch(basis)
    return None if found is None else int(found.group(1))


def way_out(basis: str) -> str:
    """How an anchor comes to hold these states."""
    images = {VISUAL: ", images=[...]", REFERENCE_SENSITIVITY: ", images=[...], questions=[...]"}.get(basis, "")
    return f"fit_anchor(model, processor, texts{images}, bases=[{basis!r}])"


def require_basis(basis: str, mode: str) -> None:
    """Raise ConfigError where a mode has no such directions."""
    known = (OWN_INPUTS, *OF_OUTPUTS, *CONTROLS)
    if basis not in known and HIDDEN.fullmatch(basis) is None:
        raise ConfigError(f"basis must be one of {', '.join(known)} or hidden:<layer>, found {basis!r}")
    if (mode == "inputs") != (basis == OWN_INPUTS) and basis not in CONTROLS:
        legal = (OWN_INPUTS, *CONTROLS) if mode == "inputs" else (*OF_OUTPUTS, "hidden:<layer>", *CONTROLS)
        raise ConfigError(
            f"basis={basis!r} with mode={mode!r}: that mode holds "
            f"{'what enters each linear' if mode == 'inputs' else 'directions of the outputs'}; "
            f"legal are {', '.join(legal)}"
        )
    if mode == "coupling" and basis == RANDOM_ENERGY:
        raise ConfigError("basis='random_energy' compares steps on one side, and coupling has two; use basis='random'")
