"""Decoding quantised weights: against bytes that bitsandbytes wrote, and against what Transformers loads."""

import json

import pytest
import torch
from torch import Tensor

from helpers.stored_quantised import TABLES, bnb_4bit, bnb_8bit, float8, stored
from textanchor.diffs.checkpoint import Checkpoint, checkpoint_of_tensors
from textanchor.diffs.storage import dequantised

WEIGHT = (torch.arange(-64, 64).float() * 7 % 23 / 100 - 0.11).reshape(2, 64).bfloat16()
"""What bitsandbytes 0.50.2 made the bytes below of, with blocks of 64."""
BYTES = {
    "nf4": "8e16d04bf39e17d15c03af28e16d04bf39e17d15c03af28e16d04bf39e17d15c"
    "03af28e16d04bf39e17d15c03af28e16d04bf39e17d15c03af28e16d04bf39e1",
    "fp4": "62ae5bf43d62a02ae5bc73d62ae5bf43d62a02ae5bc73d62ae5bf43d62a02ae5"
    "bc73d62ae5bf43d62a02ae5bc73d62ae5bf43d62a02ae5bc73d62ae5bf43d62a",
}
ABSMAX = 0.10986328125
FIRST = {
    "nf4": [0.008728, 0.079590, -0.076660, -0.010010, 0.061768, -0.109863],
    "fp4": [0.018311, 0.073242, -0.073242, -0.018311, 0.054932, -0.109863],
}
"""What its dequantize_4bit gives for the first entries, in bfloat16."""


def text(values: dict) -> Tensor:
    return torch.tensor(list(json.dumps(values).encode()), dtype=torch.uint8)


def decoded(parts: dict[str, Tensor]) -> Checkpoint:
    return dequantised(checkpoint_of_tensors(stored("layer.weight", parts)))


@pytest.mark.parametrize("kind", BYTES)
def test_what_bitsandbytes_wrote(kind: str) -> None:
    codes = torch.tensor(list(bytes.fromhex(BYTES[kind])), dtype=torch.uint8)
    state = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64]}
    parts = {"": codes[:, None], ".absmax": torch.full((2,), ABSMAX), ".quant_map": TABLES[kind]}
    checkpoint = decoded(parts | {f".quant_state.bitsandbytes__{kind}": text(state)})
    assert list(checkpoint.tensors) == ["layer.weight"]
    found, steps = checkpoint.whole("layer.weight"), checkpoint.steps("layer.weight", 0, 2)
    assert steps is not None and found.shape == steps.shape == (2, 64)
    assert ((found - WEIGHT.float()).abs() <= steps).all()
    torch.testing.assert_close(found.flatten()[:6], torch.tensor(FIRST[kind]), rtol=2**-8, atol=0)


ENCODERS = {
    "nf4": bnb_4bit,
    "nested": lambda weight: bnb_4bit(weight, nested=True),
    "fp4": lambda weight: bnb_4bit(weight, "fp4"),
    "int8": bnb_8bit,
    "blocks": lambda weight: float8(weight, (3, 2)),
    "rows": lambda weight: float8(weight, (48, 1), scale="_scale"),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_steps_bound_the_error_and_are_no_larger_than_needed(kind: str) -> None:
    weight = 0.02 * torch.randn(48, 64 * 12)
    checkpoint = decoded(ENCODERS[kind](weight))
    steps = checkpoint.steps("layer.weight", 0, 48)
    assert steps is not None
    shares = (checkpoint.whole("layer.weight") - weight).abs() / steps
    assert shares.max() <= 1
    assert shares.mean() > 0.3, "of an even error, half of the largest"


def test_rows_are_those_of_the_whole_weight() -> None:
    checkpoint = decoded(bnb_4bit(0.02 * torch.randn(48, 64)))
    whole = checkpoint.whole("layer.weight")
    assert torch.equal(checkpoint.rows("layer.weight", 5, 9), whole[5:9])
    assert checkpoint.tensors["layer.weight"].quantised == "nf4"


def test_plain_tensors_are_left_alone() -> None:
    raw = checkpoint_of_tensors(
        {"a.weight": torch.randn(3, 4), "a.steps": torch.tensor(3), "a.flag": torch.tensor(True)}
    )
    assert dequantised(raw) is raw
