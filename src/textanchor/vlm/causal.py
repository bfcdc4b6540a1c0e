"""Text read causally by models that read it in both directions by default; weights are shared."""

import copy
from typing import Any

import torch
from torch import nn

from textanchor.errors import ModelError
from textanchor.vlm.chat import REFUSALS
from textanchor.vlm.names import unwrapped
from textanchor.vlm.search import description

PROBE_IDS = (3, 5, 4, 7, 6, 3)
"""Tokens on which models are compared; any do, and every vocabulary has these."""
LAST_ID = 2


def causal_on_text(model: nn.Module) -> Any:
    """`model`, or where its text configuration says `use_bidirectional_attention` a copy that reads text causally.

    The copy has modules and configurations of its own and the model's parameters, adapters included, so it needs no
    memory. Of PaliGemma, the probabilities of all continuations of a text sum to 1 in it and not in the model itself.
    """
    plain: Any = unwrapped(model)
    if getattr(plain.config.get_text_config(), "use_bidirectional_attention", None) is not True:
        return model
    causal = _copied(model, {})
    of_text = [m for m in causal.modules() if getattr(_config(m), "use_bidirectional_attention", None) is True]
    for module in of_text:
        if hasattr(module, "is_causal"):
            module.is_causal = True
    whole: Any = unwrapped(causal)
    for config in (*map(_config, of_text), whole.config.get_text_config()):
        config.use_bidirectional_attention = False
    return causal


def _config(module: nn.Module) -> Any:
    return vars(module).get("config")


def _copied(module: Any, known: dict[int, Any]) -> Any:
    """The module with copies of its inner modules and of all configurations, and with the same parameters."""
    twin = copy.copy(module)
    twin._modules = {name: None if m is None else _copied(m, known) for name, m in module._modules.items()}
    if "config" in vars(module):
        twin.config = copy.deepcopy(_config(module), known)
    return twin


def require_causal(model: Any) -> None:
    """Raise ModelError where the logits of a text depend on tokens that come later, or where it needs an image."""
    ids_2L = torch.tensor([PROBE_IDS, (*PROBE_IDS[:-1], LAST_ID)], device=model.device)
    try:
        with torch.inference_mode():
            logits_2LV = model(input_ids=ids_2L, attention_mask=torch.ones_like(ids_2L), use_cache=False).logits
    except REFUSALS as error:
        raise ModelError(
            f"{description(model)}: it takes no text without an image ({type(error).__name__}: {error}); leave the "
            "suites of plain text and of language out"
        ) from error
    first, second = logits_2LV[:, :-1]
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3):
        raise ModelError(
            f"{description(model)}: it reads a text in both directions, so the log-likelihood of a text is not "
            "defined; leave the suites of plain text and of language out"
        )
