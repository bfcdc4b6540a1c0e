"""Weights as quantisers store them: each becomes several tensors, given by what follows the weight's name."""

import json

import torch
from torch import Tensor

NF4 = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.09105, 0.0]
NF4 += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.562617, 0.7229568, 1.0]
FP4 = [0.0, 0.0052083, 0.6666667, 1.0, 0.3333333, 0.5, 0.1666667, 0.25]
FP4 += [-value for value in FP4]
TABLES = {"nf4": torch.tensor(NF4), "fp4": torch.tensor(FP4)}
BLOCK, NESTED_BLOCK = 64, 256


def bnb_4bit(weight: Tensor, kind: str = "nf4", *, nested: bool = False, storage: torch.dtype = torch.uint8) -> dict:
    """bitsandbytes in 4 bits; with `nested` the sizes of blocks are quantised again."""
    blocks = weight.float().flatten().reshape(-1, BLOCK)
    absmax, table = blocks.abs().amax(1), TABLES[kind]
    codes = (blocks / absmax[:, None])[..., None].sub(table).abs().argmin(-1).flatten().to(torch.uint8)
    state = {"quant_type": kind, "blocksize": BLOCK, "dtype": "bfloat16", "shape": list(weight.shape)}
    parts = {"": (codes[::2] << 4 | codes[1::2]).view(storage).reshape(-1, 1), ".quant_map": table.clone()}
    if nested:
        offset, map_8bit = float(absmax.mean()), torch.linspace(-1, 1, 256)
        sizes = torch.stack([b.abs().amax() for b in (absmax - offset).split(NESTED_BLOCK)])
        scaled = (absmax - offset) / sizes.repeat_interleave(NESTED_BLOCK)[: len(absmax)]
        parts[".absmax"] = scaled[:, None].sub(map_8bit).abs().argmin(1).to(torch.uint8)
        parts |= {".nested_absmax": sizes, ".nested_quant_map": map_8bit}
        state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": offset}
    else:
        parts[".absmax"] = absmax
    text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return parts | {f".quant_state.bitsandbytes__{kind}": text}


def bnb_8bit(weight: Tensor) -> dict:
    """bitsandbytes in 8 bits; the last tensors stand beside the weight, not below it."""
    largest = weight.float().abs().amax(1)
    codes = (127 * weight.float() / largest[:, None]).round().to(torch.int8)
    return {"": codes, "/SCB": largest, "/weight_format": torch.tensor(0, dtype=torch.uint8)}


def float8(weight: Tensor, grid: tuple[int, int], *, scale: str = "_scale_inv") -> dict:
    """8-bit floats with `grid` scales, named with `scale` after the weight's name."""
    num_rows, num_columns = grid
    blocks = weight.float().reshape(num_rows, weight.shape[0] // num_rows, num_columns, weight.shape[1] // num_columns)
    scales = blocks.abs().amax((1, 3), keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
    codes = (blocks / scales).reshape(weight.shape).to(torch.float8_e4m3fn)
    return {"": codes, scale: scales.reshape(grid), "/input_scale": torch.ones(1)}


def stored(name: str, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts by their whole names."""
    module = name.rpartition(".")[0]
    return {f"{module}.{end[1:]}" if end.startswith("/") else name + end: t.contiguous() for end, t in parts.items()}
