"""What each configuration of a comparison knows after its last step, and half way back to the base.

    python experiments/plan/last_step.py docs/evidence/compare/near_team_both team
    python experiments/plan/last_step.py docs/evidence/compare/near_team_controls team --by-step  # each run on its way

Means over seeds, of validation and test items together: no arm is chosen here, so none has to be kept apart. Not a
comparison at equal learning, which `make evidence` gives.
"""

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from textanchor.files import read_json


def state(point: dict[str, Any], task: str, start: dict[str, Any], guess: float) -> tuple[float, float, float, float]:
    """Nats learned, share right of the new task, share right of the old ones, and nats that these have lost."""
    tasks, before = point["tasks"], start["tasks"]
    old = [name for name in tasks if name != task]
    right = {name: fmean(map(int, tasks[name]["correct"])) for name in tasks}
    lost = fmean(mean(tasks[name]["gold_nats"]) - mean(before[name]["gold_nats"]) for name in old)
    return guess - mean(tasks[task]["choice_nats"]), right[task], fmean(right[name] for name in old), lost


def mean(column: str) -> float:
    """Of numbers in one string."""
    return fmean(map(float, column.split()))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("task")
    parser.add_argument("--by-step", action="store_true", help="every run at every scored step, instead of means")
    chosen = parser.parse_args()
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for path in sorted((chosen.folder / "runs").glob(f"*__{chosen.task}__s*.json")):
        run = read_json(path)["extra"]
        name, guess, curve = path.stem.rpartition("__s")[0], run["guess_nats"][chosen.task]["test"], run["curve"]
        if chosen.by_step:
            for point in curve:
                found[f"{path.stem}, step {point['step']}"] = [state(point, chosen.task, curve[0], guess)]
            continue
        found.setdefault(name, []).append(state(curve[-1], chosen.task, curve[0], guess))
        for point in run.get("wise_ft") or ():
            if point["alpha"] == 0.5:
                found.setdefault(f"{name}, half way", []).append(state(point, chosen.task, curve[0], guess))
    print("| configuration | seeds | learned, nats (right) | old answers right | old nats lost |")
    print("| --- | --- | --- | --- | --- |")
    for name, values in found.items():
        learned, right, kept, lost = (fmean(column) for column in zip(*values, strict=True))
        print(f"| {name} | {len(values)} | {learned:.2f} ({100 * right:.0f} %) | {100 * kept:.0f} % | {lost:.2f} |")


if __name__ == "__main__":
    main()
