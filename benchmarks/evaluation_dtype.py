"""Seconds of one retention pass in each number format, and how far its answers are from those of float32.

    python benchmarks/evaluation_dtype.py --record docs/evidence/speed/dtype.json

The embedded model answers 64 items of each of the eight tasks by candidate log-likelihood and reads 40 held-out texts:
in float32, with its language model in bfloat16 autocast (`EvaluationOptions.precision`), and with all of its weights in
bfloat16; --formats adds float16, which processors without products in it compute several times slower. Vision tower
outputs are computed before, as in a run. The formats take turns, so that other work on the machine meets all alike, and
seconds are medians over the repeats. A format whose answers are not those of float32 for every item is not one to
compare float32 scores with, however fast it is.
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from textanchor.errors import TextanchorError
from textanchor.evaluation.registry import EIGHT_TASKS, load_suite
from textanchor.evaluation.run import evaluate
from textanchor.evaluation.scoring.images import TowerCache
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions, suite_hash
from textanchor.records import RunRecord, Score, environment, memory_cost
from textanchor.vlm.loading import load_vlm
from textanchor.vlm.precision import Format

REFERENCE = "float32"
FORMATS: dict[str, tuple[torch.dtype, Format]] = {
    REFERENCE: (torch.float32, "float32"),
    "bfloat16 autocast": (torch.float32, "bfloat16"),
    "bfloat16": (torch.bfloat16, "float32"),
    "float16": (torch.float16, "float32"),
}
"""Format -> type of the weights, and what the language model computes in (float32: what its weights are)."""

Values = dict[tuple[str, str], Any]
"""Value by suite and item id."""


@dataclass(frozen=True)
class Pass:
    """One retention pass of a model in one format, to be run again and again."""

    model: Any
    processor: Any
    suites: Sequence[AbstractSuite]
    options: EvaluationOptions

    def __call__(self) -> list[Score]:
        return evaluate(self.model, self.processor, self.suites, options=self.options, progress=False)


def passes(
    suites: Sequence[AbstractSuite], formats: Sequence[str]
) -> tuple[dict[str, Pass], dict[str, list[Score]], dict[str, str]]:
    """By format the pass and its rows, and of formats that cannot be computed here the error; all run once."""
    ready, rows, failed = {}, {}, {}
    for name in formats:
        dtype, precision = FORMATS[name]
        model, processor = load_vlm("embedded", dtype=dtype)
        made = Pass(model, processor, suites, EvaluationOptions(precision=precision, tower_cache=TowerCache()))
        try:
            rows[name], ready[name] = made(), made
        except (RuntimeError, TextanchorError) as error:  # an operation that this build lacks in that format
            failed[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
    return ready, rows, failed


def timed(ready: dict[str, Pass], repeats: int) -> dict[str, list[float]]:
    """Wall seconds of every repeat; the formats take turns, each repeat beginning with another one."""
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    names = list(ready)
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            began = time.perf_counter()
            ready[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def compared(rows: Sequence[Score], reference: Sequence[Score]) -> dict[str, float]:
    """How far the scores are from those of the reference: share of equal answers, differences in nats."""
    ours, theirs = answers(rows), answers(reference)
    gaps = [abs(value - gold(reference)[item]) for item, value in gold(rows).items()]
    return {
        "equal_answers": fmean(ours[item] == theirs[item] for item in theirs),
        "num_answers": len(theirs),
        "largest_gold_nats_difference": max(gaps),
        "mean_gold_nats_difference": fmean(gaps),
        "text_nats_per_token_change": nats_per_token(rows) - nats_per_token(reference),
    }


def answers(rows: Sequence[Score]) -> Values:
    return {(row.suite, row.item_id): row.answer for row in rows if row.metric == "correct"}


def gold(rows: Sequence[Score]) -> Values:
    return {(row.suite, row.item_id): row.value for row in rows if row.metric == "gold_nats"}


def nats_per_token(rows: Sequence[Score]) -> float:
    sums = {metric: sum(row.value for row in rows if row.metric == metric) for metric in ("nats", "num_tokens")}
    return sums["nats"] / sums["num_tokens"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, help="file of the run record; nothing is written where it is left out")
    parser.add_argument("--num-items", type=int, default=64, help="items of each task")
    parser.add_argument("--num-texts", type=int, default=40, help="held-out texts")
    parser.add_argument("--repeats", type=int, default=5, help="timed passes of each format")
    usual = [name for name in FORMATS if name != "float16"]
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=usual, help="float32 always goes along")
    parser.add_argument("--num-threads", type=int, default=len(os.sched_getaffinity(0)), help="all cores by default")
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(chosen.num_threads)
    suites = [load_suite(task, num_items=chosen.num_items, blind=False) for task in EIGHT_TASKS]
    suites.append(load_suite("text", num_items=chosen.num_texts))
    ready, rows, failed = passes(suites, list(dict.fromkeys([REFERENCE, *chosen.formats])))
    seconds = timed(ready, chosen.repeats)
    found: dict[str, Any] = {}
    for name, runs in seconds.items():
        found[name] = {
            "seconds": runs,
            "median_seconds": median(runs),
            "times_faster": median(seconds[REFERENCE]) / median(runs),
            **compared(rows[name], rows[REFERENCE]),
        }
        own = found[name]
        print(
            f"{name:<18} {own['median_seconds']:7.2f} s, {own['times_faster']:.2f} times as fast, "
            f"{own['equal_answers']:.2%} of {own['num_answers']} answers equal, gold answers within "
            f"{own['largest_gold_nats_difference']:.3f} nats (mean {own['mean_gold_nats_difference']:.4f}), "
            f"text {own['text_nats_per_token_change']:+.4f} nats per token"
        )
    for name, error in failed.items():
        print(f"{name:<18} cannot be computed here: {error}")
    equal = [name for name, own in found.items() if own["equal_answers"] == 1]
    fastest = min(equal, key=lambda name: found[name]["median_seconds"])
    print(f"fastest with equal answers: {fastest}")
    if chosen.record is not None:
        RunRecord(
            name="evaluation in each number format",
            method="benchmark",
            seed=0,
            config={key: value for key, value in vars(chosen).items() if key != "record"},
            **environment(),
            hashes={suite.name: suite_hash(suite) for suite in suites},
            cost=memory_cost(),
            extra={"formats": found, "failed": failed, "fastest_with_equal_answers": fastest, "load_before": load},
        ).save(chosen.record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
