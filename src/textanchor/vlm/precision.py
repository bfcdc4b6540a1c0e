"""In which number format a model computes: the fastest that its device has, told by timing products of its shapes.

Weights are float32 in either format. Under bfloat16 products round what they are given to eight bits of mantissa
(`torch.autocast`): four times as fast as float32 on processors and GPUs with units for it, and several times slower on
those that emulate it. Which of the two a machine is cannot be read from its kind, so it is measured.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textanchor.spectral.products import linear
from textanchor.vlm.names import unwrapped

logger = logging.getLogger(__name__)

Format = Literal["float32", "bfloat16"]
Precision = Literal["auto", "float32", "bfloat16"]
FORMATS: tuple[Format, ...] = get_args(Format)

LEAST_GAIN = 1.25
"""How many times as fast bfloat16 has to be before `auto` gives up digits for it."""
NUM_SHAPES, NUM_ROWS = 3, 256
LEAST_REPEATS, LEAST_SECONDS = 5, 0.03
"""Of one shape, both formats in turn."""
MOST_OPERATIONS = 1e9
"""Of one timed product: a tenth of a second for a processor that emulates bfloat16."""

Shape = tuple[int, int]
"""Outputs and inputs of a linear."""


@dataclass(frozen=True, kw_only=True)
class ComputePrecision:
    """The format that was asked for, the one that is used, and how fast each is on the device."""

    asked: Precision
    used: Format
    device: str
    gflops: dict[Format, float]
    """Speed of products, in 10^9 operations a second."""

    @property
    def bfloat16(self) -> bool:
        """Whether products are computed in bfloat16."""
        return self.used == "bfloat16"

    @property
    def slowdown(self) -> float:
        """How many times as long products take as in the other format."""
        other: Format = "float32" if self.bfloat16 else "bfloat16"
        return self.gflops[other] / self.gflops[self.used]

    def record(self) -> dict[str, Any]:
        """Plain values for a record."""
        return asdict(self)

    def __str__(self) -> str:
        speeds = ", ".join(f"{name} {speed:.0f}" for name, speed in self.gflops.items())
        why = "" if self.asked == "auto" else ", asked for"
        where = "one core" if self.device == "cpu" else self.device
        return f"precision: {self.used}{why} (products on {where}, in GFLOP/s: {speeds})"


def choose_precision(
    model: nn.Module, asked: Precision, *, device: str | None = None, keep: Format | None = None
) -> ComputePrecision:
    """The format in which `model` is to compute on a kind of device (where it lies, unless given), logged in one line.

    `auto` is what it has to `keep` to (the format of a run that is resumed, or of scores to compare with); otherwise
    bfloat16 where its products are at least 1.25 times as fast, else float32. A slower format is used where it is asked
    for or kept, with a warning that says by how much.
    """
    device = device or next(model.parameters()).device.type
    gflops = product_speeds(device, linear_shapes(model))
    fastest: Format = "bfloat16" if gflops["bfloat16"] > LEAST_GAIN * gflops["float32"] else "float32"
    used = asked if asked != "auto" else keep or fastest
    chosen = ComputePrecision(asked=asked, used=used, device=device, gflops=gflops)
    logger.info("%s", chosen)
    if chosen.bfloat16 and chosen.slowdown > 1:
        logger.warning(
            "bfloat16 is %s, in which products on this %s take %.1f times as long as in float32",
            "kept to" if asked == "auto" else "asked for",
            device,
            chosen.slowdown,
        )
    return chosen


def linear_shapes(model: nn.Module) -> tuple[Shape, ...]:
    """The shapes (outputs, inputs) of linears that hold most of the model's weights, at most three."""
    weights: Counter[Shape] = Counter()
    for module in unwrapped(model).modules():
        if isinstance(module, nn.Linear):  # its features also where a quantiser has packed the weight
            weights[module.out_features, module.in_features] += module.out_features * module.in_features
    return tuple(shape for shape, _ in weights.most_common(NUM_SHAPES)) or ((NUM_ROWS, NUM_ROWS),)


@cache
def product_speeds(device: str, shapes: tuple[Shape, ...]) -> dict[Format, float]:
    """GFLOP/s of products with weights of these shapes in each format, on one thread; timed once in a process."""
    seconds, operations = dict.fromkeys(FORMATS, 0.0), 0.0
    for num_outputs, num_inputs in shapes:
        num_rows = int(min(NUM_ROWS, max(1, MOST_OPERATIONS / (2 * num_outputs * num_inputs))))
        x_NI = torch.ones(num_rows, num_inputs, device=device)
        weight_OI = torch.ones(num_outputs, num_inputs, device=device)
        operations += 2 * num_rows * num_outputs * num_inputs
        with _one_thread():
            for name, took in _least_seconds(x_NI, weight_OI).items():
                seconds[name] += took
    return {name: operations / seconds[name] / 1e9 for name in FORMATS}


@torch.no_grad()
def _least_seconds(x_NI: Tensor, weight_OI: Tensor) -> dict[Format, float]:
    """The least of a few runs of each format, taken in turn, so that other work on the machine weighs little."""
    half_OI = weight_OI.bfloat16()
    ways: dict[Format, Callable[[], Tensor]] = {
        "float32": lambda: linear(x_NI, weight_OI),
        "bfloat16": lambda: F.linear(x_NI.bfloat16(), half_OI),  # autocast rounds what comes in
    }
    least = dict.fromkeys(FORMATS, float("inf"))
    first, repeats = time.perf_counter(), 0
    while repeats <= LEAST_REPEATS or time.perf_counter() - first < LEAST_SECONDS:
        for name, way in ways.items():
            _wait_for(x_NI.device)
            began = time.perf_counter()
            way()
            _wait_for(x_NI.device)
            least[name] = min(least[name], time.perf_counter() - began)
        repeats += 1
    return least


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads wait for one another, so what else a processor does would decide which format looks fast."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def computing_in(precision: Format, device: torch.device) -> torch.autocast:
    """The context in which a forward pass on float32 weights computes in that format."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
