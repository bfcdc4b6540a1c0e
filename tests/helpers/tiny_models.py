"""Tiny random vision-language models and their inputs: no download, no files, well under a second each."""

import copy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMultimodalLM, PreTrainedModel

import helpers.stand_in_tower  # noqa: F401  puts its tower in the place of those from timm
from helpers.tiny_families import IMAGE, TINY
from helpers.tiny_families_shrunk import SHRUNK
from helpers.tiny_sizes import shrunk

RENAMED = (
    *("llava", "pixtral_llava", "vipllava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "internvl"),
    *("paligemma", "gemma3", "mllama", "mistral3", "aya_vision", "aria", "got_ocr2", "kimi_k25"),
)
"""Families whose files have other names than the model in memory."""

WORDS_BEFORE, WORDS_AFTER = [1, 5, 6], [7, 8, 9, 10]


def tiny_vlm(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Random model of a family (a key of `TINY` or `SHRUNK`), in eval mode; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForMultimodalLM.from_config(_configuration(name))
    # a cast to the same type is none for most, but Llama 4 has complex rotary factors
    return (model if dtype == torch.float32 else model.to(dtype)).eval()


def model_type_of(name: str) -> str:
    """The `model_type` of an entry."""
    return TINY[name][0] if name in TINY else name


def tiny_inputs(name: str, *, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Inputs of one forward pass: three words, the image's placeholders, four words; batch of one."""
    given = dict(TINY[name][2] if name in TINY else SHRUNK[name][1])
    first, last = given.pop("around", (None, None))
    placeholders = [IMAGE] * given.pop("num_tokens")
    framed = placeholders if first is None else [first, *placeholders, last]
    input_ids = torch.tensor([[*WORDS_BEFORE, *framed, *WORDS_AFTER]])
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    for key, value in given.items():
        inputs[key] = _filled(key, value, input_ids)
    return {key: value.to(dtype) if _is_pixels(value) else value for key, value in inputs.items()}


def _is_pixels(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _configuration(name: str) -> Any:
    if name in SHRUNK:
        return AutoConfig.for_model(name, **shrunk(name, **SHRUNK[name][0]))
    model_type, config, _ = TINY[name]
    # copies, because some configuration classes change the dictionaries they are given
    return AutoConfig.for_model(model_type, **copy.deepcopy(config))


def _filled(key: str, value: Any, input_ids: torch.Tensor) -> Any:
    """Inputs that depend on the tokens are given in the table as True (mark the image) or False (mark nothing)."""
    if not isinstance(value, bool):
        return value
    if key == "cross_attention_mask":
        return torch.ones(1, input_ids.shape[1], 1, 4, dtype=torch.long)
    return (input_ids == IMAGE).long() * int(value)
