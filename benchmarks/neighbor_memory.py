"""Peak memory of the neighbour measures at N = 20 000 states of width 576, each in a process of its own.

    python benchmarks/neighbor_memory.py --out benchmarks/neighbor_memory.json

Writes a run record and ends with exit code 1 where a measure takes more than the promised 2 GiB. The promise is of
memory; seconds are given to say what the run costs, of a machine that may do other work.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from textanchor import geometry as geo
from textanchor.records import RunRecord, environment, memory_cost

NUM_STATES, WIDTH, NUM_NEIGHBORS, SEED = 20_000, 576, 10, 0
PROMISED_MB = 2048


def states(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_STATES, WIDTH, generator=generator, dtype=torch.float64) + 1


MEASURES: dict[str, Callable[[], object]] = {
    "states only": lambda: (states(SEED), states(SEED + 1)),
    "nearest_neighbors": lambda: geo.nearest_neighbors(states(SEED), NUM_NEIGHBORS, metric="cosine"),
    "mutual_nearest_neighbors": lambda: geo.mutual_nearest_neighbors(states(SEED), states(SEED + 1), NUM_NEIGHBORS),
    "twonn_dimension": lambda: geo.twonn_dimension(states(SEED)),
}


def cost_of(name: str) -> dict[str, float]:
    """Seconds and peak memory of one measure in this process."""
    start = time.perf_counter()
    MEASURES[name]()
    return {"seconds": time.perf_counter() - start, **memory_cost()}


def cost_in_new_process(name: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--measure", name], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file of the run record")
    parser.add_argument("--measure", choices=MEASURES, help="measure this alone, here, and print its cost as JSON")
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(cost_of(chosen.measure)))
        return 0
    costs = {name: cost_in_new_process(name) for name in MEASURES}
    for name, cost in costs.items():
        print(f"{name:26s} {cost['peak_memory_mb']:8.0f} MiB {cost['seconds']:8.1f} s")
    if chosen.out:
        config = {"num_states": NUM_STATES, "width": WIDTH, "num_neighbors": NUM_NEIGHBORS, "promised_mb": PROMISED_MB}
        config["threads"] = torch.get_num_threads()
        record = RunRecord(
            name="neighbor_memory", method="geometry", seed=SEED, config=config, extra={"costs": costs}, **environment()
        )
        record.save(chosen.out)
    return int(max(cost["peak_memory_mb"] for cost in costs.values()) > PROMISED_MB)


if __name__ == "__main__":
    sys.exit(main())
