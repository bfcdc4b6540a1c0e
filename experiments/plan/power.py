"""What the pilot says of the confirmatory test: differences, their spread between seeds, and power.

    python experiments/plan/power.py docs/evidence/compare/pilot_digits --candidate app --controls plain l2sp

Reads the records of one comparison. Only configurations that every seed has count; the spread of the paired difference
between seeds then gives the power for several numbers of seeds, were both tasks as the pilot's.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from textanchor.experiment.reading.confirm import SMALLEST_EFFECT, blocks_of, contrasts, power
from textanchor.experiment.reading.runs import Curve, curves_of
from textanchor.records import RunRecord

EFFECTS = (SMALLEST_EFFECT, 0.1, 0.2, 0.5)
NUM_SEEDS = (3, 8, 16)
NUM_TASKS = 2


def complete(curves: Sequence[Curve]) -> list[Curve]:
    """The configurations that were run with all seeds of the comparison."""
    seeds = max((curve.seeds for curve in curves), key=len)
    return [curve for curve in curves if curve.seeds == seeds]


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--candidate", required=True)
    parser.add_argument("--controls", nargs="+", required=True)
    chosen = parser.parse_args()
    curves = complete(curves_of(RunRecord.load(path) for path in sorted((chosen.folder / "runs").glob("*.json"))))
    found = blocks_of(curves, [chosen.candidate, *chosen.controls])
    print(f"{found.task}, seeds {', '.join(map(str, found.seeds))}, levels {found.levels[0]} to {found.levels[-1]}\n")
    print("| arm | forgetting, nats, by seed |\n| --- | --- |")
    for arm, values_S in found.values.items():
        print(f"| {arm} | {', '.join(f'{value:.3f}' for value in values_S)} |")
    header = " | ".join(f"power, {count} seeds, {effect:g}" for count in NUM_SEEDS for effect in EFFECTS)
    print(f"\n| control | control - {chosen.candidate} [90 %] | spread between seeds | {header} |")
    print("| --- " * (3 + len(NUM_SEEDS) * len(EFFECTS)) + "|")
    for contrast in contrasts([found], chosen.candidate, chosen.controls):
        spread = float(np.std(found.values[contrast.control] - found.values[chosen.candidate], ddof=1))
        powers = [power([spread] * NUM_TASKS, e, num_seeds=count) for count in NUM_SEEDS for e in EFFECTS]
        shown = " | ".join(f"{value:.2f}" for value in powers)
        print(f"| {contrast.control} | {contrast.difference} | {spread:.3f} | {shown} |")


if __name__ == "__main__":
    main()
