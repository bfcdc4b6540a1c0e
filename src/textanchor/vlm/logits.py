"""Forward passes without logits, which for a vocabulary of 49 000 are a fifth of a small model's work."""

import inspect

from torch import nn

from textanchor.vlm.names import unwrapped


def takes_logits_to_keep(model: nn.Module) -> bool:
    """Whether the model's forward pass can leave out logits."""
    return "logits_to_keep" in inspect.signature(unwrapped(model).forward).parameters


def without_logits(model: nn.Module) -> dict[str, int]:
    """Options of a forward pass whose logits nobody reads: those of the last position alone, where it can do so."""
    return {"logits_to_keep": 1} if takes_logits_to_keep(model) else {}
