"""What `textanchor evaluate` runs, and the table that it prints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textanchor.errors import DataError, TextanchorError
from textanchor.evaluation.registry import load_suites
from textanchor.evaluation.run import evaluate_to_folder, read_scores
from textanchor.evaluation.suite import AbstractSuite
from textanchor.evaluation.suites.closed import ClosedSuite
from textanchor.evaluation.summarise import change, summarise
from textanchor.records import RunRecord, Score
from textanchor.vlm.loading import load_vlm


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation; printed, it is a table with the change against the baseline, where there is one."""

    folder: Path
    record: RunRecord
    baseline: list[Score] | None

    def __str__(self) -> str:
        summary = summarise(self.record.scores)
        lines = _task_lines(summary["tasks"], self.record.scores, self.baseline)
        lines += [line for key, write in _OTHERS.items() if key in summary for line in write(summary[key])]
        return "\n".join([*lines, "", f"rows, summary and record: {self.folder}"])


def evaluate_named(
    model: str | Path,
    suite_names: Sequence[str],
    *,
    num_items: int,
    seed: int = 0,
    out: Path,
    baseline: Path | None = None,
    progress: bool = True,
) -> Evaluation:
    """Evaluate a model on suites, both by name, into the folder `out`; `baseline` is the folder of an earlier one."""
    suites = load_suites(suite_names, num_items=num_items, seed=seed)
    before = None
    if baseline is not None:
        if baseline.resolve() == out.resolve():
            raise TextanchorError(f"{out}: is the baseline itself; choose another output folder")
        before = read_scores(baseline)
        _require_same_items(suites, before, baseline)
    config = {"model": str(model), "suites": list(suite_names), "num_items": num_items, "seed": seed}
    loaded, processor = load_vlm(model)
    record = evaluate_to_folder(
        loaded, processor, suites, out, name=str(model), seed=seed, config=config, progress=progress
    )
    return Evaluation(out, record, before)


def _require_same_items(suites: Sequence[AbstractSuite], before: Sequence[Score], baseline: Path) -> None:
    """Found out before the evaluation, not when its table is written."""
    for suite in suites:
        then = {score.item_id for score in before if score.suite == suite.name}
        if isinstance(suite, ClosedSuite) and then and then != {item.id for item in suite.items}:
            raise DataError(
                f"{baseline}: its suite {suite.name!r} holds other items than this one, so the two cannot be paired; "
                "give the same --num-items and --seed as for the baseline"
            )


def _task_lines(
    tasks: dict[str, dict[str, Any]], scores: Sequence[Score], baseline: Sequence[Score] | None
) -> list[str]:
    if not tasks:
        return []
    known = {score.suite for score in baseline or ()}
    header = f"{'task':<14}{'items':>6}  {'accuracy':<22}{'gold nats':<22}{'majority':>9}{'blind':>7}"
    lines = [header + ("  accuracy change, gold nats change" if baseline is not None else "")]
    for name, task in tasks.items():
        accuracy = _written(task["accuracy"]) if "accuracy" in task else "-"
        line = f"{name:<14}{task['num_items']:>6}  {accuracy:<22}{_written(task['gold_nats']):<22}"
        line += f"{_share(task.get('majority')):>9}{_share(task['blind']):>7}"
        if baseline is not None and name in known:
            metrics = ["correct", "gold_nats"] if "accuracy" in task else ["gold_nats"]
            line += "  " + ", ".join(str(change(baseline, scores, name, metric)) for metric in metrics)
        lines.append(line)
    return lines


def _pope_lines(pope: dict[str, Any]) -> list[str]:
    parts = {"POPE, all": pope} | {f"POPE, {name}": part for name, part in pope["strategies"].items()}
    return [""] + [
        f"{name:<20}accuracy {_written(part['accuracy'])}, blind {_share(part['blind_accuracy'])}, "
        f"F1 {part['f1']:.3f}, yes-ratio {part['yes_ratio']:.3f}, unparsed {part['unparsed']:.3f} "
        f"({part['num_items']} questions)"
        for name, part in parts.items()
    ]


def _chair_lines(chair: dict[str, Any]) -> list[str]:
    return [
        "",
        f"CHAIR_i {_share(chair['chair_i'])}, CHAIR_s {_written(chair['chair_s'])}, recall {chair['recall']:.3f}, "
        f"{chair['mean_length']['estimate']:.1f} words ({chair['num_items']} captions)",
    ]


def _text_lines(text: dict[str, Any]) -> list[str]:
    line = f"text: {_written(text['cross_entropy'])} nats for each of {text['num_tokens']} tokens"
    kl = f", KL to the base {_written(text['kl_to_base'])}" if "kl_to_base" in text else ""
    return ["", line + kl]


_OTHERS = {"pope": _pope_lines, "chair": _chair_lines, "text": _text_lines}


def _written(interval: dict[str, float]) -> str:
    return f"{interval['estimate']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
