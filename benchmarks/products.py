"""Rates of matrix products of the embedded model's shapes, by each library that torch may hand them to, on one thread.

    python benchmarks/products.py --record docs/evidence/speed/products.json

float32 by torch's own choice (`torch.nn.functional.linear`), by `textanchor.spectral.products.linear` where nothing
asks for a gradient, and bfloat16; GFLOP/s from the median of processor seconds, the ways in turn.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from textanchor.records import RunRecord, environment
from textanchor.spectral.products import HAS_FASTER, linear

SHAPES = {
    "attention, 1024 tokens": (1024, 576, 576),
    "gate and up, 1024 tokens": (1024, 1536, 576),
    "down, 1024 tokens": (1024, 576, 1536),
    "logits, 256 tokens": (256, 49152, 576),
    "a rule's first product on LoRA of rank 16, down": (16, 461, 1536),
    "a rule's second product on LoRA of rank 16, down": (16, 1536, 461),
}
"""What it is -> rows, outputs, inputs."""


def rates(shape: tuple[int, int, int], repeats: int) -> dict[str, float]:
    """GFLOP/s of each way."""
    num_rows, num_outputs, num_inputs = shape
    x, weight = torch.randn(num_rows, num_inputs), torch.randn(num_outputs, num_inputs)
    half_x, half_weight = x.bfloat16(), weight.bfloat16()
    ways = {
        "float32, torch's choice": lambda: F.linear(x, weight),
        "float32, ours": lambda: linear(x, weight),
        "bfloat16": lambda: F.linear(half_x, half_weight),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append(time.process_time() - began)
    operations = 2 * num_rows * num_outputs * num_inputs
    return {name: operations / statistics.median(own) / 1e9 for name, own in seconds.items()}


def main() -> None:
    """Print and record the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=40)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with torch.no_grad():
        for name, shape in SHAPES.items():
            found[name] = {"shape": shape, "gflops": rates(shape, chosen.repeats)}
            print(name, {way: round(rate) for way, rate in found[name]["gflops"].items()}, flush=True)
    RunRecord(
        name="rates of products",
        method="benchmark",
        seed=0,
        config={"repeats": chosen.repeats},
        **environment(),
        extra={"products": found, "one_dnn_serves": HAS_FASTER, "capability": torch.backends.cpu.get_cpu_capability()},
    ).save(chosen.record)


if __name__ == "__main__":
    main()
