"""The main job: measure, adapt plainly and with the anchor held, measure again, compare, report."""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from textanchor import __version__
from textanchor.config import to_dict
from textanchor.data.items import Item, open_image
from textanchor.data.tasks import load_items
from textanchor.data.texts import load_texts
from textanchor.demo.config import METHODS, OLD_TASKS, DemoConfig
from textanchor.demo.geometry import TextSpace, token_norms, visual_tokens
from textanchor.demo.matched import compare_at_matched_learning, headline
from textanchor.demo.samples import pick_samples
from textanchor.demo.suites import Suites, scores_for_report
from textanchor.demo.table import result_table
from textanchor.evaluation.images import TowerCache
from textanchor.evaluation.suite import EvaluationOptions
from textanchor.evaluation.suites.closed import ClosedSuite
from textanchor.files import require_free_directory, write_json
from textanchor.holds import Anchor, FilterConfig, HoldPlan, fit_anchor, plan_holds
from textanchor.methods.app import DEFAULT_FILTERS
from textanchor.records import RunRecord, Score, environment, memory_cost
from textanchor.report.build import build_report
from textanchor.training.adapt import adapt
from textanchor.training.audit import Audit
from textanchor.training.curve import CheckpointScorer, log_spaced_steps
from textanchor.training.drift import DriftRecorder
from textanchor.training.features import FeatureStore
from textanchor.training.session import Session
from textanchor.vlm.embedded import load_embedded
from textanchor.vlm.parts import find_parts
from textanchor.vlm.precision import choose_precision

NUM_GEOMETRY_IMAGES = 64


class DriftInAnchor(DriftRecorder):
    """Drift in the directions that `app` holds, also of a run that holds nothing."""

    def __init__(self, on_steps: Iterable[int], anchor: Path, filters: Mapping[str, FilterConfig]):
        super().__init__(on_steps)
        self.anchor, self.filters = anchor, filters

    def on_run_begin(self, session: Session, plan: HoldPlan | None) -> None:
        super().on_run_begin(session, plan or plan_holds(session.parts, Anchor.load(self.anchor), dict(self.filters)))


@dataclass(frozen=True)
class MethodRun:
    """Everything that was measured of one adapted model."""

    audit: Audit
    record: RunRecord
    rows: list[Score]
    curve: list[dict[str, Any]]
    energy: list[float]

    def for_report(self, before: list[Score]) -> dict[str, Any]:
        """The RUN object of report.json."""
        audit = asdict(self.audit)
        return {
            "scores": scores_for_report(self.rows, before),
            "curve": _columns(self.curve, "step", "new", "old", "text_cross_entropy"),
            "norms": _columns(self.curve, "step", "visual_token_norm", "text_token_norm"),
            "drift": self.record.extra["drift"],
            "audit": {key: audit[key] for key in ("tensors", "reload_max_difference", "trained_not_saved")},
            "loss": _columns(self.record.extra["loss"], "step", "loss"),
            "seconds": self.record.cost["seconds"],
        }


def _columns(rows: Sequence[Mapping[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: row[name] for name in names} for row in rows]


class Demo:
    """The shared parts of one demo: the model before tuning, the suites, the text space."""

    def __init__(self, config: DemoConfig, out: Path, scratch: Path, say: Callable[[str], None]):
        self.config, self.out, self.say, self.anchor = config, out, say, scratch / "anchor"
        say("loading the embedded model (SmolLM2-135M-Instruct, EfficientNet-lite0, projector)")
        self.model, self.processor = load_embedded()
        self.precision = choose_precision(self.model, "auto")
        self.options = EvaluationOptions(precision=self.precision.used, tower_cache=TowerCache(), batch_size=24)
        self.features = FeatureStore()  # both runs see the same images through the same frozen tower
        self.suites = Suites.build(config, self.model, self.options)
        self.images: list[Item] = load_items("caption", split="validation", num_items=NUM_GEOMETRY_IMAGES)
        self.space = self._fit_anchor()

    def _fit_anchor(self) -> TextSpace:
        """Fitted once and saved: the held run holds its directions, the plain run is measured in them."""
        self.say(f"text anchor: {self.config.num_anchor_texts} texts, {self.config.num_reference_images} images")
        texts = [row.text for row in load_texts("train")[: self.config.num_anchor_texts]]
        references = load_items("caption", split="train", num_items=self.config.num_reference_images)
        images = [open_image(item.image) for item in references if item.image is not None]
        anchor = fit_anchor(self.model, self.processor, texts, images)
        anchor.save(self.anchor)
        return TextSpace(anchor)

    def measure_before(self) -> list[Score]:
        """Rows of the larger set before tuning; both curves start at the point that is measured here too."""
        self.say(f"before tuning: {self.suites.num_questions()} items")
        self.start = {"step": 0, **self._point(self.model, self.processor)}
        return self.suites.score(self.model, self.processor)

    def run(self, name: str) -> MethodRun:
        """Adapt a fresh copy with the method called `name`, scoring it on the way, and measure it."""
        config = self.config.adapt_config(name, self.out / name, anchor=self.anchor)
        self.say(f"tuning on {self.config.task} with method {name}: {self.config.max_steps} steps")
        model, processor = load_embedded()
        steps = log_spaced_steps(self.config.max_steps, self.config.num_points)
        scorer = CheckpointScorer(steps[1:], self._point)
        drift = DriftInAnchor(steps, self.anchor, DEFAULT_FILTERS)
        result = adapt(config, model=model, processor=processor, callbacks=[scorer, drift], features=self.features)
        self.say(str(result.audit))
        rows = self.suites.score(result.model, processor)
        energy = self.space.energy(visual_tokens(result.model, processor, self.images))
        # neither the tuned model nor its plan is needed any more, and together they take a gigabyte
        return MethodRun(result.audit, result.record, rows, [self.start, *scorer.entries], energy)

    def _point(self, model: nn.Module, processor: Any) -> dict[str, Any]:
        norms = token_norms(model, visual_tokens(model, processor, self.images))
        return {**self.suites.point(model, processor), **norms}

    def report(self, before: list[Score], runs: Mapping[str, MethodRun]) -> dict[str, Any]:
        """The content of report.json."""
        parts = find_parts(self.model)
        scores = {"before": scores_for_report(before, None)}
        after = {name: run.for_report(before) for name, run in runs.items()}
        matched = compare_at_matched_learning({name: run.curve for name, run in runs.items()})
        closed = [suite for suite in self.suites.final if isinstance(suite, ClosedSuite)]
        start = self.space.energy(visual_tokens(self.model, self.processor, self.images))
        return {
            "title": f"The embedded model learns {self.config.task}",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "textanchor_version": __version__,
            "command": f"textanchor demo --task {self.config.task} --seed {self.config.seed}",
            "environment": environment(),
            "config": to_dict(self.config),
            "interval_note": "95 % bootstrap intervals over items; changes are paired by item. One seed.",
            "model": {
                "name": "embedded",
                "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
                "vision_tower": f"EfficientNet-lite0 ({parts.vision_tower}), frozen",
                "projector": f"two linears ({', '.join(parts.projector)}), trained in full",
                "language_model": f"SmolLM2-135M-Instruct ({parts.language_model}), LoRA rank {self.config.lora_rank}",
            },
            "new_task": self.config.task,
            "old_tasks": list(OLD_TASKS),
            "headline": headline(self.config.task, scores["before"], after, matched),
            **scores,
            "after": after,
            "matched": matched,
            "geometry": {
                "text_spectrum": self.space.spectrum,
                "projected_energy": {"before": start, **{name: run.energy for name, run in runs.items()}},
                "ks": self.space.ks,
                "random": self.space.random(),
            },
            "samples": pick_samples(closed, before, {name: run.rows for name, run in runs.items()}),
        }


def run_demo(out: Path, *, task: str, seed: int, config: DemoConfig | None = None) -> Path:
    """Run the main job into the folder `out` and return the path of its report.html.

    Raises TextanchorError where `out` is not empty or a model file is out of reach; nothing is written then.
    """
    require_free_directory(out)
    began = time.monotonic()
    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:4.0f} s[/]  {text}")

    config = config or DemoConfig(task=task, seed=seed)  # pyright: ignore[reportArgumentType]
    with tempfile.TemporaryDirectory(prefix="textanchor-") as scratch:
        demo = Demo(config, out, Path(scratch), say)
        before = demo.measure_before()
        runs = {name: demo.run(name) for name in METHODS}
    report = demo.report(before, runs) | {"cost": {"seconds": time.monotonic() - began, **memory_cost()}}
    write_json(out / "report.json", report)
    page = build_report(out / "report.json", out / "report.html")
    printed = Console(highlight=False)
    printed.print(result_table(report))
    printed.print(report["headline"]["sentence"])
    printed.print(report["headline"]["matched_sentence"])
    printed.print(f"report: {page}", soft_wrap=True)
    return page
