"""How long the demo takes, beside an earlier build of it in the same run.

    python benchmarks/demo_speed.py --against 8de9e74 --record docs/evidence/speed/demo_avx512.json
    python benchmarks/demo_speed.py --against 8de9e74 --avx2 --record docs/evidence/speed/demo_avx2.json

The earlier build is checked out beside this one and runs until the third step of its first run; its whole time is then
told in two ways: `own_estimate` is what its progress bar says there (the three steps' time, the points on the curve
among it, times 64 / 3, for both of its runs), `counted` counts steps, points and scores by what each took. This build
runs to the end. With --avx2 both are kept from AVX-512, which a machine with it obeys: bfloat16 is then emulated, as on
processors with AVX2 alone, though these are slower still. Nothing else should run meanwhile; about 25 minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from earlier_build import REPOSITORY, checkout, environment_of

from textanchor.files import read_json
from textanchor.records import RunRecord, environment

NUM_STEPS, NUM_POINTS, NUM_RUNS = 64, 5, 2
"""Of the earlier build's demo."""
SEEN_STEPS, SEEN_POINTS = 3, 2
"""Of its first run: points are scored at steps 1, 3, 8, 23 and 64."""


class ThirdStep(Exception):
    """The earlier build has been seen enough."""


def watch_earlier(out: Path) -> dict[str, float]:
    """Seconds of the demo on the path until its third step; runs in a process of the earlier build."""
    from transformers import TrainerCallback

    import textanchor.demo.run as demo

    marks: dict[str, float] = {}
    steps: list[float] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            marks["training"] = time.perf_counter()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks["step"] = time.perf_counter()

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            steps.append(time.perf_counter() - marks["step"])

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == SEEN_STEPS:
                raise ThirdStep

    adapt, measure_before = demo.adapt, demo.Demo.measure_before

    def watched_adapt(*arguments: Any, callbacks: Any, **options: Any) -> Any:
        return adapt(*arguments, callbacks=[*callbacks, Watch()], **options)

    def timed_before(self: Any) -> Any:
        began = time.perf_counter()
        rows = measure_before(self)
        marks["before"] = time.perf_counter() - began
        return rows

    demo.adapt, demo.Demo.measure_before = watched_adapt, timed_before
    began = time.perf_counter()
    try:
        demo.run_demo(out, task="digits", seed=0)
    except ThirdStep:
        ended = time.perf_counter()
    else:
        raise RuntimeError("the demo ended before its third step")
    return {
        "until_training": marks["training"] - began,
        "scoring_before": marks["before"],
        "three_steps": ended - marks["training"],
        "step": sorted(steps)[1],
    }


def totals(seen: dict[str, float]) -> dict[str, float]:
    """Seconds of the whole demo of the earlier build."""
    point = (seen["three_steps"] - SEEN_STEPS * seen["step"]) / SEEN_POINTS
    run = NUM_STEPS * seen["step"] + NUM_POINTS * point
    scoring = seen["scoring_before"] - point  # the first point is measured there too
    return {
        "own_estimate": seen["until_training"] + NUM_RUNS * seen["three_steps"] * NUM_STEPS / SEEN_STEPS,
        "counted": seen["until_training"] + NUM_RUNS * (run + scoring),
    }


def run(command: list[str], source: Path, *, avx2: bool) -> str:
    """Standard output of a command of the build in `source`."""
    done = subprocess.run(
        command, env=environment_of(source, avx2=avx2), cwd=source, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def measure_earlier(revision: str, scratch: Path, *, avx2: bool) -> dict[str, float]:
    """What `watch_earlier` saw, of another commit."""
    with checkout(revision) as earlier:
        told = run([sys.executable, __file__, "--watch", str(scratch / "out")], earlier, avx2=avx2)
    return json.loads(told.splitlines()[-1])


def main() -> None:
    """Run both, print the ratio and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="8de9e74", help="commit of the earlier build")
    parser.add_argument("--avx2", action="store_true", help="keep both from AVX-512")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--out", type=Path, help="where this build's demo and its report stay")
    parser.add_argument("--watch", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.watch is not None:
        print(json.dumps(watch_earlier(chosen.watch)))
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        seen = measure_earlier(chosen.against, scratch, avx2=chosen.avx2)
        earlier = totals(seen)
        print({name: round(seconds) for name, seconds in (seen | earlier).items()}, flush=True)
        out = chosen.out or scratch / "now"
        began = time.perf_counter()
        run([sys.executable, "-m", "textanchor.cli", "demo", "--out", str(out)], REPOSITORY, avx2=chosen.avx2)
        seconds = time.perf_counter() - began
        report = read_json(out / "report.json")
    ratios = {name: total / seconds for name, total in earlier.items()}
    print(f"{seconds:.0f} s now, {', '.join(f'{name} {ratio:.1f}x' for name, ratio in ratios.items())}")
    if chosen.record:
        RunRecord(
            name="time of the demo",
            method="benchmark",
            seed=0,
            config={"against": chosen.against, "avx2": chosen.avx2},
            **environment(),
            cost={"seconds": seconds, "peak_memory_mb": report["cost"]["peak_memory_mb"]},
            extra={
                "earlier": seen | earlier,
                "ratios": ratios,
                "phases": report["cost"]["phases"],
                "precision": report["precision"],
                "sizes": report["config"],
                "note": report["interval_note"],
                "headline": report["headline"],
            },
        ).save(chosen.record)


if __name__ == "__main__":
    main()
