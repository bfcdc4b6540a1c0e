"""Seconds of a retention pass beside an earlier build's in the same run, and beside the least that its products take.

    python benchmarks/retention_pass.py --avx2 --record docs/evidence/speed/retention_avx2.json

The pass: 64 items of each of the eight tasks, and 40 texts with their divergence from the base, on the embedded model
as a comparison scores it. Each way runs twice in a process of its own, of which the second pass counts, as in a run
whose tower is not trained. Ways: this build with `precision: auto`, the earlier build in bfloat16 autocast (what its
demo and its comparisons scored in) and in float32. The floor is the pass's operations, counted by torch's own counter,
over the speed of float32 or bfloat16 products of the model's shapes, whichever the pass computes in, times the number
of threads. Answers of this build are compared with the earlier build's in float32.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from earlier_build import REPOSITORY, checkout, environment_of

from textanchor.records import RunRecord, environment


def measure(precision: str, num_items: int, num_texts: int) -> dict[str, Any]:
    """Seconds of the second pass, its answers and, in this build, its operations and the speed of products."""
    import torch

    from textanchor.evaluation.registry import EIGHT_TASKS, load_suite
    from textanchor.evaluation.run import evaluate
    from textanchor.evaluation.scoring.images import TowerCache
    from textanchor.evaluation.suite import EvaluationOptions
    from textanchor.vlm.embedded import load_embedded

    model, processor = load_embedded()
    base, _ = load_embedded()
    found: dict[str, Any] = {}
    if precision == "auto":
        from textanchor.vlm.precision import choose_precision

        chosen = choose_precision(model, "auto")
        found |= {"precision": chosen.record(), "threads": torch.get_num_threads()}
        options = EvaluationOptions(precision=chosen.used, tower_cache=TowerCache())
    else:
        options = EvaluationOptions(autocast=precision == "bfloat16", tower_cache=TowerCache())
    suites = [
        *(load_suite(task, num_items=num_items, blind=False) for task in EIGHT_TASKS),
        load_suite("text", num_items=num_texts, base=base),
    ]
    evaluate(model, processor, suites, options=options, progress=False)
    began = time.perf_counter()
    rows = evaluate(model, processor, suites, options=options, progress=False)
    found["seconds"] = time.perf_counter() - began
    found["answers"] = {f"{row.suite}/{row.item_id}": row.answer for row in rows if row.metric == "correct"}
    found["nats"] = {f"{row.suite}/{row.item_id}": row.value for row in rows if row.metric == "gold_nats"}
    if precision == "auto":
        found["operations"] = _operations(lambda: evaluate(model, processor, suites, options=options, progress=False))
    return found


def _operations(run: Any) -> int:
    """Floating-point operations of a pass."""
    from torch.utils.flop_counter import FlopCounterMode

    from textanchor.spectral import products

    products.HAS_FASTER = False  # the counter knows torch's own products only; their number is the same
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def run(precision: str, source: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process of the build in `source`."""
    command = [sys.executable, __file__, "--measure", precision]
    command += ["--items", str(chosen.items), "--texts", str(chosen.texts)]
    own = environment_of(source, avx2=chosen.avx2)
    done = subprocess.run(command, env=own, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run all ways in turn, print the ratios and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="8de9e74", help="commit of the earlier build")
    parser.add_argument("--avx2", action="store_true", help="keep both from AVX-512")
    parser.add_argument("--items", type=int, default=64, help="of each task")
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure is not None:
        print(json.dumps(measure(chosen.measure, chosen.items, chosen.texts)))
        return
    with checkout(chosen.against) as earlier:
        now = run("auto", REPOSITORY, chosen)
        before = {name: run(name, earlier, chosen) for name in ("float32", "bfloat16")}
    exact = before["float32"]
    speed = now["precision"]["gflops"][now["precision"]["used"]] * 1e9 * now["threads"]
    told = {
        "seconds": now["seconds"],
        "floor_seconds": now["operations"] / speed,
        "over_floor": now["seconds"] * speed / now["operations"],
        "earlier_seconds": {name: found["seconds"] for name, found in before.items()},
        "times_as_fast": {name: found["seconds"] / now["seconds"] for name, found in before.items()},
        "equal_answers": sum(now["answers"][item] == answer for item, answer in exact["answers"].items()),
        "num_answers": len(exact["answers"]),
        "largest_difference_nats": max(abs(now["nats"][item] - nats) for item, nats in exact["nats"].items()),
        "operations": now["operations"],
        "precision": now["precision"],
        "threads": now["threads"],
    }
    print(json.dumps(told, indent=1))
    if chosen.record:
        RunRecord(
            name="a retention pass",
            method="benchmark",
            seed=0,
            config={"against": chosen.against, "avx2": chosen.avx2, "items": chosen.items, "texts": chosen.texts},
            **environment(),
            extra=told,
        ).save(chosen.record)


if __name__ == "__main__":
    main()
