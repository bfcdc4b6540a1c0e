"""Quantised weights whose format is plain: found by their tensors, and decoded with what their rounding can make.

bitsandbytes in 4 bits: two codes in a byte, the first in its high half, each times the largest size of its block; those
sizes may be quantised again (arXiv 2305.14314). In 8 bits: integers times their row's largest size / 127 (arXiv
2208.07339). 8-bit floats: times a grid of scales, by Transformers' own operation.

Shape legend: N entries, B blocks, O rows, C codes.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from textanchor.diffs.checkpoint import Checkpoint
from textanchor.errors import ModelError

BNB_STATE = re.compile(r"^(?P<weight>.+)\.quant_state\.bitsandbytes__(?P<kind>\w+)$")
BNB_4BIT_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
FLOAT8_SCALES = ("{name}_scale_inv", "{name}_scale", "{module}.scale", "{module}.qscale_weight")
"""Names of the scales that a tensor of 8-bit floats is to be multiplied with."""
COMPUTED = 2**-10
"""Relative error of the quantisers' own arithmetic, which is in half precision."""

Parts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Decoded:
    """Values of a quantised weight in float32, and how far rounding may have moved each of them; both of its shape."""

    values: Tensor
    steps: Tensor


@dataclass(frozen=True)
class QuantisedWeight:
    """One weight that is stored quantised."""

    name: str
    kind: str
    """nf4, fp4, int8, or the type of 8-bit floats."""
    shape: tuple[int, ...]
    parts: dict[str, str]
    """Part of the format -> name in the file; `weight` is its own."""
    decode: Callable[[Parts], Decoded]
    """From the tensors of its parts; ValueError, KeyError or RuntimeError where they do not fit together."""


def find_quantised(raw: Checkpoint) -> dict[str, QuantisedWeight]:
    """The quantised weights of a checkpoint by name; ModelError where what describes one cannot be read."""
    found = [*_bnb_4bit_weights(raw), *_bnb_8bit_weights(raw), *_float8_weights(raw)]
    return {weight.name: weight for weight in found}


def _bnb_4bit_weights(raw: Checkpoint) -> Iterator[QuantisedWeight]:
    for state_name in raw.tensors:
        match = BNB_STATE.match(state_name)
        if match is None or match["weight"] not in raw.tensors:
            continue
        name, state = match["weight"], raw.whole(state_name)
        try:
            settings = json.loads(bytes(state.tolist()))
            shape = tuple(int(size) for size in settings["shape"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{raw.label}: {name} is quantised by bitsandbytes ({match['kind']}), and {state_name}, which should "
                "say its shape as JSON, does not; quantise the model again, or give it as it was before"
            ) from error
        parts = {part: f"{name}.{part}" for part in BNB_4BIT_PARTS if f"{name}.{part}" in raw.tensors}
        parts |= {"weight": name, "state": state_name}
        yield QuantisedWeight(name, match["kind"], shape, parts, partial(_decode_bnb_4bit, settings, shape))


def _decode_bnb_4bit(settings: Mapping[str, Any], shape: tuple[int, ...], parts: Parts) -> Decoded:
    codes = parts["weight"].contiguous().view(torch.uint8).flatten().int()
    absmax_B, slack_B = _bnb_block_sizes(settings, parts)
    table_C = parts["quant_map"].float()
    bytes_to_values, bytes_to_gaps = _both_halves(table_C), _both_halves(_half_gaps(table_C))

    def in_blocks(entries_N: Tensor) -> Tensor:
        return entries_N.flatten().reshape(len(absmax_B), int(settings["blocksize"]))

    values = in_blocks(bytes_to_values.index_select(0, codes))
    steps = in_blocks(bytes_to_gaps.index_select(0, codes)) * (absmax_B + slack_B)[:, None]
    steps += values.abs() * (slack_B + COMPUTED * absmax_B)[:, None]
    return Decoded((values * absmax_B[:, None]).reshape(shape), steps.reshape(shape))


def _bnb_block_sizes(settings: Mapping[str, Any], parts: Parts) -> tuple[Tensor, Tensor]:
    """Largest size of each block, and how far its own quantisation may have moved it; both (B,)."""
    absmax_B = parts["absmax"]
    if "nested_absmax" not in parts:
        return absmax_B.float(), torch.zeros(len(absmax_B))
    codes_B, table_C = absmax_B.int(), parts["nested_quant_map"].float()
    sizes_B = parts["nested_absmax"].float().repeat_interleave(int(settings["nested_blocksize"]))[: len(codes_B)]
    absmax_B = table_C.index_select(0, codes_B) * sizes_B + float(settings["nested_offset"])
    return absmax_B, _half_gaps(table_C).index_select(0, codes_B) * sizes_B


def _half_gaps(table_C: Tensor) -> Tensor:
    """Half the distance of each code's value to the further one of its neighbours."""
    values, order = table_C.sort()
    gaps = values.diff() / 2
    sides = torch.stack([torch.cat([gaps[:1] * 0, gaps]), torch.cat([gaps, gaps[:1] * 0])])
    return torch.empty_like(table_C).index_copy_(0, order, sides.amax(0))


def _both_halves(table_C: Tensor) -> Tensor:
    """Of a table for 16 codes, one for bytes: (256, 2), that of the high half first."""
    codes = torch.arange(256)
    return torch.stack([table_C[codes >> 4], table_C[codes & 15]], dim=1)


def _bnb_8bit_weights(raw: Checkpoint) -> Iterator[QuantisedWeight]:
    for name, stored in raw.tensors.items():
        module = name.removesuffix(".weight")
        if stored.dtype == torch.int8 and f"{module}.SCB" in raw.tensors:
            parts = {"weight": name, "SCB": f"{module}.SCB"}
            if f"{module}.weight_format" in raw.tensors:
                parts["format"] = f"{module}.weight_format"
            yield QuantisedWeight(name, "int8", stored.shape, parts, _decode_bnb_8bit)


def _decode_bnb_8bit(parts: Parts) -> Decoded:
    step_O1 = parts["SCB"].float().reshape(-1, 1) / 127
    values = parts["weight"].float() * step_O1
    return Decoded(values, step_O1 / 2 + COMPUTED * values.abs())


def _float8_weights(raw: Checkpoint) -> Iterator[QuantisedWeight]:
    for name, stored in raw.tensors.items():
        if stored.dtype not in FLOAT8:
            continue
        module = name.rpartition(".")[0]
        names = [pattern.format(name=name, module=module) for pattern in FLOAT8_SCALES]
        scales = next((scale for scale in names if scale in raw.tensors), None)
        parts = {"weight": name} if scales is None else {"weight": name, "scales": scales}
        kind = str(stored.dtype).removeprefix("torch.")
        yield QuantisedWeight(name, kind, stored.shape, parts, _decode_float8)


def _decode_float8(parts: Parts) -> Decoded:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    weight, scales = parts["weight"], parts.get("scales", torch.ones(1, 1))
    if scales.ndim < 2:
        scales = scales.reshape(-1, 1)  # one for all, or one for each row
    if scales.dtype != torch.uint8:  # bytes are exponents
        scales = scales.float()

    def scaled(values: Tensor) -> Tensor:
        made: Any = Fp8Dequantize(None).convert({"weight": values, "weight_scale_inv": scales})
        return made["weight"].float()

    values, kind = scaled(weight), torch.finfo(weight.dtype)
    steps = kind.eps / 2 * values.abs() + kind.smallest_normal * kind.eps / 2 * scaled(torch.ones(weight.shape)).abs()
    return Decoded(values, steps + COMPUTED * values.abs())
