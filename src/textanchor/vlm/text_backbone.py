"""The text model inside a vision-language model, as harnesses for language models expect one; weights are shared."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from textanchor.errors import ModelError
from textanchor.vlm.causal import PROBE_IDS, causal_on_text, require_causal
from textanchor.vlm.names import unwrapped
from textanchor.vlm.parts import find_parts
from textanchor.vlm.search import description


def text_backbone(model: nn.Module) -> Any:
    """A causal language model made of the decoder and output head of `model`: no copy, so no memory of its own.

    The model itself is returned where Transformers has no causal model of the decoder's class (Qwen2-VL), or where that
    class computes other logits than the whole model does on text (Aya Vision scales them). It reads a text causally,
    also where the model does not (PaliGemma). LoRA layers and other changes inside the decoder stay in effect.
    ModelError for an encoder-decoder, and for a model that cannot read a text causally.
    """
    plain: Any = unwrapped(model)
    if plain.config.is_encoder_decoder:
        raise ModelError(
            f"{description(model)}: an encoder-decoder has no causal text backbone; language suites need one"
        )
    whole = _nested_causal_model(model)
    if whole is not None:  # BLIP-2 cannot run without an image, but what it holds is a whole language model
        return whole
    plain = unwrapped(causal_on_text(model))
    require_causal(plain)
    backbone = _assembled(plain)
    return backbone if backbone is not None and _same_logits(plain, backbone) else plain


def _nested_causal_model(model: nn.Module) -> Any:
    parts = find_parts(model)
    found: Any = parts.module(parts.language_model)
    return found if type(found) in MODEL_FOR_CAUSAL_LM_MAPPING.values() else None


def _assembled(plain: Any) -> Any:
    """The causal model of the text configuration's class around decoder and head; None where they do not fit it."""
    decoder, head = plain.get_decoder(), plain.get_output_embeddings()
    # what is tied shares its parameter already; told to tie, Transformers would write into the model
    config = copy.deepcopy(plain.config.get_text_config())
    config.tie_word_embeddings = False
    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if causal is None or head is None:
        return None
    with torch.device("meta"):
        backbone = causal(config)
    prefix = backbone.base_model_prefix
    if type(getattr(backbone, prefix)) is not type(decoder):
        return None
    setattr(backbone, prefix, decoder)
    backbone.set_output_embeddings(head)
    if any(tensor.is_meta for tensor in [*backbone.parameters(), *backbone.buffers()]):
        return None
    backbone.generation_config = copy.deepcopy(plain.generation_config)
    backbone.training = plain.training
    return backbone


def _same_logits(plain: Any, backbone: Any) -> bool:
    ids_1L = torch.tensor([PROBE_IDS], device=plain.device)
    with torch.inference_mode():
        whole, alone = (m(input_ids=ids_1L, use_cache=False).logits for m in (plain, backbone))
    return _close(whole, alone)


def _close(whole: Tensor, alone: Tensor) -> bool:
    return whole.shape == alone.shape and torch.allclose(whole, alone, rtol=1e-3, atol=1e-3)
