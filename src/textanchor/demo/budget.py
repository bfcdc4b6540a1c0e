"""Which size of the demo fits into the minutes that it is given: a few steps and items are timed, the rest is counted.

Every estimate is a sum of counts times seconds measured on this machine a moment ago, so it follows processor, number
of threads, precision and whatever else runs here.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from textanchor.data.items import open_image
from textanchor.data.tasks import load_items
from textanchor.data.texts import load_texts
from textanchor.demo.config import OLD_TASKS, SIZES, DemoConfig
from textanchor.errors import ConfigError
from textanchor.evaluation.registry import load_suite
from textanchor.evaluation.run import evaluate
from textanchor.evaluation.suite import EvaluationOptions
from textanchor.holds import fit_anchor
from textanchor.training.curve import log_spaced_steps
from textanchor.training.dataset import read_training_data
from textanchor.training.method import load_method
from textanchor.training.run import TrainingRun
from textanchor.vlm.embedded import load_embedded
from textanchor.vlm.parts import find_parts

MARGIN = 1.15
"""An estimate is raised by so much before it is compared with the minutes: machines are not the same all the time."""
NUM_STEPS, NUM_QUESTIONS, NUM_TEXTS, NUM_CAPTIONS, NUM_IMAGES = 4, 6, 2, 4, 8
"""Of what is timed; the questions are of each old task."""
EIGEN_WIDTH = 577
HELD_STEP = 1.1
"""Time of a held step over a plain one, rounded up (docs/cost.md has 1.02)."""
BASE_TEXT = 0.3
"""Of a text's pass, for the divergence from the base whose layers have been passed before."""
SETTING_UP = 12.0
"""Seconds of each run for loading, saving, hashing and auditing 135 million parameters."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds on this machine."""

    step: float
    """A plain training step."""
    question: float
    """A closed question with all its answers, its image through the tower."""
    text: float
    """One pass over a text of the suite."""
    caption: float
    anchor_text: float
    anchor_image: float
    eigen: float
    """Directions of one symmetric matrix as wide as the embedded model."""

    def record(self) -> dict[str, float]:
        """Plain values for the report."""
        return asdict(self)


def measure_speed(model: Any, processor: Any, config: DemoConfig, options: EvaluationOptions, scratch: Path) -> Speed:
    """Time a few steps and items; the model is left as it was."""
    closed = [load_suite(task, num_items=NUM_QUESTIONS, split="validation", blind=False) for task in OLD_TASKS]
    text = load_suite("text", num_items=NUM_TEXTS, split="train")
    captions = load_suite("chair_scenes", num_items=NUM_CAPTIONS, split="validation")
    texts = [row.text for row in load_texts("train")[:NUM_TEXTS]]
    items = load_items("caption", split="train", num_items=NUM_IMAGES)
    images = [open_image(item.image) for item in items if item.image is not None]

    def score(*suites: Any) -> None:
        evaluate(model, processor, suites, options=options, progress=False)

    score(text)  # what the libraries set up at their first call is nobody's cost
    anchor = _seconds(lambda: fit_anchor(model, processor, texts))
    return Speed(
        step=_step_seconds(config, scratch),
        question=_seconds(lambda: score(*closed)) / (NUM_QUESTIONS * len(closed)),
        text=_seconds(lambda: score(text)) / NUM_TEXTS,
        caption=_seconds(lambda: score(captions)) / NUM_CAPTIONS,
        anchor_text=anchor / NUM_TEXTS,
        anchor_image=_seconds(lambda: fit_anchor(model, processor, texts[:1], images, linears=[])) / NUM_IMAGES,
        eigen=_seconds(lambda: torch.linalg.eigh(torch.eye(EIGEN_WIDTH, dtype=torch.float64) + 1)),
    )


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


class _StepTimes(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def _step_seconds(config: DemoConfig, scratch: Path) -> float:
    """Of a plain step on a copy of the model; the first one is not counted."""
    few = replace(config, max_steps=NUM_STEPS, num_images=NUM_STEPS * config.batch_size)
    adapting = few.adapt_config("full", scratch / "probe", anchor=scratch)
    model, processor = load_embedded()
    times = _StepTimes()
    run = TrainingRun(
        adapting,
        load_method(adapting.method),
        model,
        processor,
        read_training_data(adapting),
        [times],
        None,
        scratch / "probe.checkpoints",
        None,
        shows_progress=False,
    )
    run.train()
    return median(after - before for before, after in zip(times.ends, times.ends[1:], strict=False))


def expected_seconds(config: DemoConfig, speed: Speed, num_eigen: float) -> dict[str, float]:
    """Seconds of each phase of the demo, in their order; `num_eigen` is the plan's work in units of `speed.eigen`."""
    point = (2 + len(OLD_TASKS)) * config.small_items * speed.question + config.small_texts * speed.text
    closed = 2 * (1 + len(OLD_TASKS)) * config.final_items + 2 * 3 * config.pope_items  # each also without its image
    texts = (1 + BASE_TEXT) * config.num_texts * speed.text
    final = closed * speed.question + config.num_captions * speed.caption + texts
    points = (len(log_spaced_steps(config.max_steps, config.num_points)) - 1) * point
    steps = config.max_steps * speed.step
    return {
        "anchor": config.num_anchor_texts * speed.anchor_text + config.num_reference_images * speed.anchor_image,
        "before": point + final,
        "tune app": SETTING_UP + num_eigen * speed.eigen + HELD_STEP * steps + points,
        "score app": final,
        "tune full": SETTING_UP + steps + points,
        "score full": final,
    }


def eigen_work(model: Any) -> float:
    """What `app` decomposes to hold the language model's inputs, in matrices of the embedded model's width."""
    parts = find_parts(model)
    modules = [parts.module(name) for name in parts.text_linears()]
    widths = [module.in_features for module in modules if isinstance(module, nn.Linear)]
    # of seven linears of a layer four kinds of inputs differ: q, k and v share one, gate and up share one
    return sum(float((width + 1) / EIGEN_WIDTH) ** 3 for width in widths) * 4 / 7


def choose_size(config: DemoConfig, speed: Speed, num_eigen: float, seconds: float) -> DemoConfig:
    """The largest size that should be finished in so many seconds; ConfigError where not even the smallest is."""
    sized = config
    for changes in SIZES:
        sized = replace(config, **changes)
        expected = MARGIN * _total(expected_seconds(sized, speed, num_eigen))
        if expected <= seconds:
            return sized
    needed = expected + SETTING_UP  # what was spent on timing is spent again
    raise ConfigError(
        f"the smallest demo takes about {needed / 60:.0f} minutes on this machine, more than are left of --minutes; "
        f"give --minutes {needed / 60 + 1:.0f}, or close what else runs here"
    )


def _total(expected: Mapping[str, float]) -> float:
    return sum(expected.values())
