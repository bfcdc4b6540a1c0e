"""Seconds of scoring candidate answers: one by one, batched, and with the image's and the prompts' tokens shared.

    python benchmarks/evaluation_speed.py --out docs/evidence/speed/evaluation.json

Four ways answer the same questions in one run and must agree: every candidate in a forward pass of its own
(one_by_one); the same rows sorted by length and eight at a time (batched); rows merged that differ in the candidate's
last token only, which is what models without sharing get (merged); and one row for each image (shared). The ratios are
of processor time on one thread, which other work on the machine moves little. Then a full retention pass on all cores:
64 items of each task and 40 held-out texts.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from textanchor.data.items import Item, open_image
from textanchor.evaluation.registry import EIGHT_TASKS, load_suite
from textanchor.evaluation.run import evaluate
from textanchor.evaluation.scoring.candidates import score_candidates
from textanchor.evaluation.scoring.images import TowerCache
from textanchor.evaluation.scoring.prompting import adds_special_tokens, encode_item
from textanchor.evaluation.suite import EvaluationOptions, measuring
from textanchor.records import RunRecord, environment, memory_cost
from textanchor.vlm.embedded import load_embedded

PROMISED = {
    ("tasks", 16): {"one_by_one": 3.0, "batched": 1.3},
    ("pope", 16): {"one_by_one": 3.0, "batched": 1.3},
    ("pope", 256): {"one_by_one": 3.0, "batched": 3.0},
}
"""By questions and number of image tokens: how many times faster than each of the others sharing has to be."""
PROMISED_SECONDS = 30.0
MOST_NATS = 2e-3
"""By how much two ways may differ in one answer: sums of the same float32 numbers in another order."""
NUM_WARM_UP = 2


def one_by_one(model: Any, processor: Any, items: Sequence[Item]) -> list[list[float]]:
    """Nats of every candidate, each in a forward pass of its own: the loop that a reader of the formula writes."""
    nats = []
    with measuring(model):
        for item in items:
            encoded = encode_item(processor, item, item.choices)
            special = adds_special_tokens(processor, encoded.prompt)
            own = []
            for text, answer in zip(encoded.texts, encoded.continuations, strict=True):
                images = [[open_image(item.image)]] if item.image is not None else None
                inputs = processor(text=[text], images=images, add_special_tokens=special, return_tensors="pt")
                log_p_LV = model(**inputs, use_cache=False).logits[0].float().log_softmax(dim=-1)
                places = range(len(log_p_LV) - len(answer) - 1, len(log_p_LV) - 1)
                own.append(-sum(float(log_p_LV[place, token]) for place, token in zip(places, answer, strict=True)))
            nats.append(own)
    return nats


def batched(model: Any, processor: Any, items: Sequence[Item]) -> list[list[float]]:
    """A row for each candidate: to our scorer, an open question with the candidate as its answer."""
    rows = [replace(item, choices=(), answer=choice) for item in items for choice in item.choices]
    found = iter(score_candidates(model, processor, rows, options=EvaluationOptions(sharing="off")))
    return [[next(found).nats[0] for _ in item.choices] for item in items]


def ours(sharing: Any) -> Callable[[Any, Any, Sequence[Item]], list[list[float]]]:
    def score(model: Any, processor: Any, items: Sequence[Item]) -> list[list[float]]:
        found = score_candidates(model, processor, items, options=EvaluationOptions(sharing=sharing))
        return [list(scores.nats) for scores in found]

    return score


WAYS = {"one_by_one": one_by_one, "batched": batched, "merged": ours("off"), "shared": ours("auto")}


def questions(kind: str, num_items: int) -> list[Item]:
    names = EIGHT_TASKS if kind == "tasks" else ("pope_scenes",)
    suites: list[Any] = [load_suite(name, num_items=num_items) for name in names]
    return [item for suite in suites for item in suite.items]


def compare(kind: str, num_image_tokens: int, num_items: int) -> dict[str, Any]:
    """Processor seconds of each way, the ratios to sharing, and by how much the answers differ."""
    model, processor = load_embedded(grid_size=int(num_image_tokens**0.5))
    items = questions(kind, num_items)
    nats, seconds = {}, {}
    for name, score in WAYS.items():
        score(model, processor, items[:NUM_WARM_UP])
        began = time.process_time()
        nats[name] = score(model, processor, items)
        seconds[name] = time.process_time() - began
    gaps = {name: largest_gap(nats[name], nats["shared"]) for name in WAYS}
    return {
        "num_items": len(items),
        "num_images": len({item.image_id for item in items}),
        "num_candidates": sum(len(item.choices) for item in items),
        "cpu_seconds": seconds,
        "times_faster": {name: seconds[name] / seconds["shared"] for name in WAYS if name != "shared"},
        "largest_gap_nats": max(gaps.values()),
        "same_answers": all(best(nats[name]) == best(nats["shared"]) for name in WAYS),
    }


def largest_gap(ours: list[list[float]], theirs: list[list[float]]) -> float:
    return max(abs(a - b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))


def best(nats: list[list[float]]) -> list[int]:
    return [own.index(min(own)) for own in nats]


def retention_pass(num_items: int, num_threads: int) -> dict[str, Any]:
    """Wall and processor seconds of a pass with nothing computed before, and of the next one, as in a run."""
    torch.set_num_threads(num_threads)
    model, processor = load_embedded()
    suites = [load_suite(task, num_items=num_items, blind=False) for task in EIGHT_TASKS]
    suites.append(load_suite("text", num_items=40))
    options = EvaluationOptions(tower_cache=TowerCache())
    found: dict[str, Any] = {"num_threads": num_threads, "num_items": num_items}
    for which in ("first", "next"):
        wall, processor_time = time.perf_counter(), time.process_time()
        rows = evaluate(model, processor, suites, options=options, progress=False)
        found[which] = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor_time}
    found["num_text_tokens"] = int(sum(row.value for row in rows if row.metric == "num_tokens"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the run record")
    parser.add_argument("--num-items", type=int, default=4, help="of each task, and three times as many of each POPE")
    chosen = parser.parse_args()
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    torch.set_num_threads(1)
    compared, kept = {}, True
    for (kind, tokens), promised in PROMISED.items():
        num_items = chosen.num_items if kind == "tasks" else 3 * chosen.num_items
        compared[f"{kind}, {tokens} image tokens"] = found = compare(kind, tokens, num_items)
        kept &= found["same_answers"] and found["largest_gap_nats"] <= MOST_NATS
        for way, least in promised.items():
            reached = found["times_faster"][way]
            kept &= reached >= least
            print(
                f"{kind}, {tokens} image tokens: {reached:.2f} times faster than {way} (promised {least})", flush=True
            )
    passed = retention_pass(64, cores)
    for which in ("first", "next"):
        own = passed[which]
        print(f"{which} retention pass: {own['seconds']:.1f} s, {own['cpu_seconds']:.1f} s of processor")
    RunRecord(
        name="evaluation speed",
        method="benchmark",
        seed=0,
        config={"num_items": chosen.num_items},
        **environment(),
        cost=memory_cost(),
        extra={"compared": compared, "retention_pass": passed, "load_before": load, "cores": cores},
    ).save(chosen.out)
    return 0 if kept and passed["next"]["seconds"] <= PROMISED_SECONDS else 1


if __name__ == "__main__":
    raise SystemExit(main())
