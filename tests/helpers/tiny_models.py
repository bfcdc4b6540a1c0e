"""Tiny random vision-language models and their inputs: no download, no files, well under a second each."""

import copy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from helpers.tiny_families import IMAGE, TINY

WORDS_BEFORE, WORDS_AFTER = [1, 5, 6], [7, 8, 9, 10]


def tiny_vlm(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Random model of a family (a key of `TINY`), in eval mode; the same seed gives the same weights."""
    model_type, config, _ = TINY[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # copies, because some configuration classes change the dictionaries they are given
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **copy.deepcopy(config)))
    return model.to(dtype).eval()


def tiny_inputs(name: str, *, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Inputs of one forward pass: three words, the image's placeholders, four words; batch of one."""
    given = dict(TINY[name][2])
    first, last = given.pop("around", (None, None))
    placeholders = [IMAGE] * given.pop("num_tokens")
    framed = placeholders if first is None else [first, *placeholders, last]
    input_ids = torch.tensor([[*WORDS_BEFORE, *framed, *WORDS_AFTER]])
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    for key, value in given.items():
        inputs[key] = _filled(key, value, input_ids)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    return inputs


def _filled(key: str, value: Any, input_ids: torch.Tensor) -> Any:
    """Inputs that depend on the tokens are given in the table as True (mark the image) or False (mark nothing)."""
    if not isinstance(value, bool):
        return value
    if key == "cross_attention_mask":
        return torch.ones(1, input_ids.shape[1], 1, 4, dtype=torch.long)
    return (input_ids == IMAGE).long() * int(value)
