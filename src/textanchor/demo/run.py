"""The main job: measure, adapt plainly and with the anchor held, measure again, compare, report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState

from textanchor import __version__
from textanchor.bounds import require_range, require_seed
from textanchor.config import to_dict
from textanchor.data.items import Item, open_image
from textanchor.data.tasks import load_items
from textanchor.data.texts import load_texts
from textanchor.demo.budget import choose_size, eigen_work, expected_seconds, measure_speed
from textanchor.demo.config import DEFAULT_MINUTES, METHODS, OLD_TASKS, DemoConfig
from textanchor.demo.geometry import TextSpace, token_norms, visual_tokens
from textanchor.demo.machine import free_memory, require_machine
from textanchor.demo.matched import compare_at_matched_learning, headline
from textanchor.demo.progress import DemoProgress, quiet_libraries
from textanchor.demo.samples import pick_samples
from textanchor.demo.suites import Suites, scores_for_report
from textanchor.demo.table import TITLES, result_table
from textanchor.evaluation.scoring.images import TowerCache
from textanchor.evaluation.suite import EvaluationOptions
from textanchor.evaluation.suites.closed import ClosedSuite
from textanchor.files import write_json
from textanchor.holds import HoldPlan, fit_anchor
from textanchor.outputs import claimed, require_free_directory, scratch_directory
from textanchor.records import RunRecord, Score, environment, memory_cost
from textanchor.report import build_report
from textanchor.training.adapt import adapt
from textanchor.training.audit import Audit
from textanchor.training.curve import CheckpointScorer, log_spaced_steps
from textanchor.training.drift import DriftRecorder
from textanchor.training.features import FeatureStore
from textanchor.vlm.embedded import load_embedded
from textanchor.vlm.parts import find_parts
from textanchor.vlm.precision import choose_precision

NUM_GEOMETRY_IMAGES = 64
ANCHOR_BATCH = 8


class _StepProgress(TrainerCallback):
    """Tells the progress of every step."""

    def __init__(self, progress: DemoProgress):
        self.progress = progress

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        free_memory()  # the anchor's moments, of which the plan has been made

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.progress.advance(state.global_step, state.max_steps, f"step {state.global_step} of {state.max_steps}")


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
    """The shared parts of one demo: the model before tuning, the suites, the anchor, the text space."""

    def __init__(self, config: DemoConfig, out: Path, scratch: Path, progress: DemoProgress):
        self.out, self.scratch, self.progress = out, scratch, progress
        progress.say("loading the embedded model (SmolLM2-135M-Instruct, EfficientNet-lite0, projector)")
        self.model, self.processor = load_embedded()
        self.precision = choose_precision(self.model, "auto")
        progress.say(str(self.precision))
        self.options = EvaluationOptions(precision=self.precision.used, tower_cache=TowerCache(), batch_size=24)
        self.config = config
        self.features = FeatureStore()  # both runs see the same images through the same frozen tower

    def fit_into(self, minutes: float) -> None:
        """Choose the size by timing a few steps and items."""
        self.progress.say("timing a few steps and items, to choose what fits")
        speed = measure_speed(self.model, self.processor, self.config, self.options, self.scratch)
        work = eigen_work(self.model)
        self.config = choose_size(self.config, speed, work, 60 * minutes - self.progress.seconds)
        self.progress.expect(expected_seconds(self.config, speed, work))
        cut = self.config.cut()
        self.progress.say(f"sizes: {f'cut to fit into {minutes:g} minutes: {cut}' if cut else 'in full'}")

    def prepare(self) -> None:
        """Draw what is asked, and fit the anchor once: the held run holds it, the plain run is measured in it."""
        config = self.config
        self.suites = Suites.build(config, self.model, self.options)
        self.images: list[Item] = load_items("caption", split="validation", num_items=NUM_GEOMETRY_IMAGES)
        texts = [row.text for row in load_texts("train")[: config.num_anchor_texts]]
        references = load_items("caption", split="train", num_items=config.num_reference_images)
        images = [open_image(item.image) for item in references if item.image is not None]

        def told(done: int, total: int) -> None:
            in_texts = max(total - len(images) // ANCHOR_BATCH, 1)  # a text's batch takes as long as ten of images
            share = done if done <= in_texts else in_texts + (done - in_texts) / 10
            self.progress.advance(share, in_texts + (total - in_texts) / 10, f"batch {done} of {total}")

        with self.progress.phase("anchor", f"anchor: {len(texts)} texts, {len(images)} unlabelled images"):
            anchor = fit_anchor(self.model, self.processor, texts, images, batch_size=ANCHOR_BATCH, progress=told)
        anchor.save(self.anchor)
        self.space = TextSpace(anchor)
        del anchor
        free_memory()

    @property
    def anchor(self) -> Path:
        """Where the anchor is saved."""
        return self.scratch / "anchor"

    def measure_before(self) -> list[Score]:
        """Rows of the larger set before tuning; both curves start at the point that is measured here too."""
        with self.progress.phase("before", f"before tuning: {self.suites.num_questions} questions, captions and texts"):
            self.start = {"step": 0, **self._point(self.model, self.processor)}
            return self._score(self.model, self.processor)

    def run(self, name: str, plan: HoldPlan | None) -> tuple[MethodRun, HoldPlan | None]:
        """Adapt a fresh copy with the method called `name`, scoring it on the way, and measure it.

        Its drift is told in the directions of `plan`, or of its own, which is also given back.
        """
        config = self.config.adapt_config(name, self.out / name, anchor=self.anchor)
        title = TITLES[name]
        with self.progress.phase(f"tune {name}", f"{title}: {self.config.max_steps} steps on {self.config.task}"):
            model, processor = load_embedded()
            steps = log_spaced_steps(self.config.max_steps, self.config.num_points)
            scorer = CheckpointScorer(steps[1:], self._point)
            watching = [scorer, DriftRecorder(steps, plan), _StepProgress(self.progress)]
            result = adapt(
                config, model=model, processor=processor, callbacks=watching, features=self.features, progress=False
            )
        self.progress.say(f"{title}: {result.audit}")
        with self.progress.phase(f"score {name}", f"{title}: the questions again"):
            rows = self._score(result.model, processor)
            energy = self.space.energy(self._visual_tokens(result.model, processor))
        run = MethodRun(result.audit, result.record, rows, [self.start, *scorer.entries], energy)
        # without the tuned model, which is not needed any more
        return run, None if result.plan is None else replace(result.plan, model=None)

    def _score(self, model: nn.Module, processor: Any) -> list[Score]:
        total, done = self.suites.num_questions, 0

        def advance(num_items: int) -> None:
            nonlocal done
            done += num_items
            self.progress.advance(done, total, f"item {done} of {total}")

        return self.suites.score(model, processor, advance)

    def _point(self, model: nn.Module, processor: Any) -> dict[str, Any]:
        norms = token_norms(model, self._visual_tokens(model, processor))
        return {**self.suites.point(model, processor), **norms}

    def _visual_tokens(self, model: nn.Module, processor: Any) -> Tensor:
        assert self.options.tower_cache is not None
        return visual_tokens(model, processor, self.images, self.options.tower_cache)

    def report(self, command: str, before: list[Score], runs: Mapping[str, MethodRun]) -> dict[str, Any]:
        """The content of report.json; `command` makes it again."""
        parts = find_parts(self.model)
        scores = {"before": scores_for_report(before, None)}
        after = {name: runs[name].for_report(before) for name in METHODS}
        matched = compare_at_matched_learning({name: run.curve for name, run in runs.items()})
        closed = [suite for suite in self.suites.final if isinstance(suite, ClosedSuite)]
        start = self.space.energy(self._visual_tokens(self.model, self.processor))
        cut = self.config.cut()
        return {
            "title": f"The embedded model learns {self.config.task}",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "textanchor_version": __version__,
            "command": command,
            "environment": environment(),
            "precision": self.precision.record(),
            "config": to_dict(self.config),
            "interval_note": "95 % bootstrap intervals over items; changes are paired by item. One seed. "
            + (f"Sizes cut to fit into the time: {cut}." if cut else "Sizes in full."),
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


def run_demo(
    out: Path, *, task: str, seed: int, minutes: float = DEFAULT_MINUTES, config: DemoConfig | None = None
) -> Path:
    """Run the main job into the folder `out` and return the path of its report.html, in at most so many minutes.

    The sizes are chosen to fit, unless a `config` says what they are. Raises TextanchorError where `out` is not empty,
    the machine or the minutes are too small or a model file is out of reach; nothing is written then.
    """
    require_range("--minutes", minutes, above=0, why=f"leave it out for {DEFAULT_MINUTES:g}")
    require_seed(seed)
    progress = DemoProgress(Console(stderr=True, highlight=False))
    with claimed(out):
        require_free_directory(out)
        require_machine(progress.say)
        with quiet_libraries(), scratch_directory(out) as scratch:
            chosen = config or DemoConfig(task=task, seed=seed)  # pyright: ignore[reportArgumentType]
            demo = Demo(chosen, out, scratch, progress)
            if config is None:
                demo.fit_into(minutes)
                free_memory()
            demo.prepare()
            before = demo.measure_before()
            held, plan = demo.run("app", None)
            free_memory()
            plain, _ = demo.run("full", plan)
        cost = {"seconds": progress.seconds, **memory_cost(), "phases": progress.told()}
        command = f"textanchor demo --task {chosen.task} --seed {chosen.seed} --minutes {minutes:g}"
        report = demo.report(command, before, {"full": plain, "app": held}) | {"cost": cost}
        write_json(out / "report.json", report)
        page = build_report(out / "report.json", out / "report.html")
    printed = Console(highlight=False)
    printed.print(result_table(report).rich())
    printed.print(report["headline"]["sentence"])
    printed.print(report["headline"]["matched_sentence"])
    if cut := demo.config.cut():
        printed.print(f"sizes were cut to fit into {minutes:g} minutes: {cut}")
    printed.print(f"report: {page}", soft_wrap=True)
    return page
