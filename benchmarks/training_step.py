"""What a training step costs, and what each way to make it cheaper saves: the embedded model, projector alone, digits.

    python benchmarks/training_step.py --record docs/evidence/speed/training_step.json

Every way is one training run that differs from the one before it in one setting; rounds over all of them in turn, on
one thread. Seconds of processor from the beginning of a step to its end, medians over all steps of all rounds but each
run's first two; for torch.compile, whose first steps compile, those stand apart, in seconds of the clock: compilers are
processes of their own. A step is 8 conversations of 36 tokens, as in the experiments.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

import textanchor as ta
from textanchor.config import from_dict
from textanchor.records import RunRecord, environment
from textanchor.training.config import AdaptConfig
from textanchor.training.dataset import read_training_data
from textanchor.training.method import load_method
from textanchor.training.run import TrainingRun

PLAIN = {"precision": "float32", "label_only_logits": False, "cache_features": False}
WAYS: dict[str, dict[str, Any]] = {
    "float32": PLAIN,
    "and tower outputs kept": PLAIN | {"cache_features": True},
    "and logits only at labels": PLAIN | {"cache_features": True, "label_only_logits": True},
    "and bfloat16": {"cache_features": True, "precision": "bfloat16"},
    "and frozen weights cast once": {"cache_features": True, "precision": "bfloat16", "cast_once": True},
}
COMPILED = "and decoder compiled"
BATCH_SIZE = 8


class StepTimes(TrainerCallback):
    """Seconds of every step, of this process on the processor and by the clock."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.wall: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = time.process_time(), time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(time.process_time() - self.began[0])
        self.wall.append(time.monotonic() - self.began[1])


def step_times(settings: dict[str, Any], num_steps: int, *, compiled: bool) -> tuple[StepTimes, int]:
    """Of each step of one run, and how many tokens a step has on average."""
    with tempfile.TemporaryDirectory() as scratch:
        values = {
            "model": "embedded",
            "data": {"task": "digits", "num_images": BATCH_SIZE * num_steps},
            "output": f"{scratch}/out",
            "parts": {"projector": {"train": "full", "learning_rate": 1e-4}, "language_model": {"train": "frozen"}},
            "training": {"max_steps": num_steps, "batch_size": BATCH_SIZE, **settings},
        }
        config = from_dict(AdaptConfig, values)
        model, processor = ta.load_vlm("embedded")
        times, method = StepTimes(), load_method(config.method)
        run = TrainingRun(
            config, method, model, processor, read_training_data(config), [times], None, Path(scratch), None
        )
        for printing in (ProgressCallback, PrinterCallback):
            run.trainer.remove_callback(printing)
        if compiled:
            model.model.language_model.compile(dynamic=True)
        run.train()
        return times, round(run.tokens.count / num_steps)


def main() -> None:
    """Time all ways in turn, print and record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8, help="of each run; the first two are not counted")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--note", default="", help="what else ran on the machine")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    counted: dict[str, list[float]] = {name: [] for name in (*WAYS, COMPILED)}
    first: dict[str, float] = {}
    num_tokens = 0
    with tempfile.TemporaryDirectory() as compiled:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled  # else what an earlier call compiled would be found
        for _ in range(chosen.rounds):
            for name in counted:
                settings = WAYS.get(name) or list(WAYS.values())[-1]
                times, num_tokens = step_times(settings, chosen.steps, compiled=name == COMPILED)
                counted[name] += times.seconds[2:]
                first.setdefault(name, sum(times.wall[:2]))  # of the first round, in which all is compiled
                print(f"{name}: {statistics.median(counted[name]):.3f} s, first two {first[name]:.1f} s", flush=True)
    start = statistics.median(counted["float32"])
    rows = [
        {
            "way": name,
            "seconds": statistics.median(own),
            "times_the_first": statistics.median(own) / start,
            "clock_of_first_two_steps": first[name],
            "steps": own,
        }
        for name, own in counted.items()
    ]
    RunRecord(
        name="training step",
        method="benchmark",
        seed=0,
        config={"steps": chosen.steps, "rounds": chosen.rounds, "batch_size": BATCH_SIZE},
        **environment(),
        extra={"rows": rows, "num_tokens": num_tokens, "threads": 1, "note": chosen.note},
    ).save(chosen.record)


if __name__ == "__main__":
    main()
