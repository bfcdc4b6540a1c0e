"""What a run did to each trained tensor, beside the rule that it was to keep."""

from dataclasses import dataclass
from typing import Any

from textanchor.holds import AuditReport, audit_plan
from textanchor.training.method import Attachment
from textanchor.training.updates import StartWeights, Update

FREE = "free"
"""Rule of a tensor that was trained without a hold."""


@dataclass(frozen=True, kw_only=True)
class TensorAudit:
    """One trained tensor of the plain model, LoRA merged."""

    name: str
    rule: str
    weight_leak: float | None
    """||P_out Delta P_in|| / ||Delta||, on the weight of a held linear with its bias; None where nothing is held."""
    weight_leak_bound: float | None
    """Largest weight leak that rounding explains, which rule exact may not exceed."""
    function_leak: float | None
    """Share of the output change on held-out inputs in protected directions; None where it was not measured."""
    relative_update: float
    """||W - W0|| / ||W0||; of a tensor that started at zero 1, or 0 if it is still zero."""
    norm_ratio: float
    """||W|| / ||W0||; of a tensor that started at zero 1."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What audit.json holds."""

    tensors: tuple[TensorAudit, ...]
    projector: dict[str, Any] | None
    """How the visual tokens of held-out images changed; None where no reference images were given."""
    reload_max_difference: float
    merge_max_difference: float
    trained_not_saved: tuple[str, ...]
    other_tensors_changed: tuple[str, ...]

    def __str__(self) -> str:
        leaks = [tensor.weight_leak for tensor in self.tensors if tensor.weight_leak is not None]
        held = f"{len(leaks)} held, largest leak {max(leaks):.1e}" if leaks else "none held"
        return (
            f"{len(self.tensors)} tensors trained, {held}; reloaded logits differ by {self.reload_max_difference:.1e}"
        )


def audit_weights(start: StartWeights, attachment: Attachment) -> tuple[tuple[TensorAudit, ...], dict[str, Any] | None]:
    """A row for each trained tensor, and how the projector's function changed.

    HoldError where a hold did not keep its promise.
    """
    if attachment.plan is None:
        return tuple(_row(update, FREE, None) for update in start.updates()), None
    report = audit_plan(attachment.plan, start.parts.model, probe=attachment.probe)
    report.require_kept()
    rules = {tensor.name: tensor.rule for tensor in attachment.plan.tensors}
    rules |= {f"{row.name}.weight": row.rule for row in report.rows}  # of LoRA, whose tensors have other names
    tensors = tuple(_row(update, rules.get(update.name, FREE), report) for update in start.updates())
    return tensors, None if report.projector is None else dict(vars(report.projector))


def _row(update: Update, rule: str, report: AuditReport | None) -> TensorAudit:
    linear = update.name.removesuffix(".weight")
    held = next((row for row in report.rows if row.name == linear), None) if report is not None else None
    moved = float(update.delta.norm())
    return TensorAudit(
        name=update.name,
        rule=rule,
        weight_leak=None if held is None else held.weight_leak,
        weight_leak_bound=None if held is None else held.bound,
        function_leak=None if held is None else held.function_leak,
        relative_update=moved / update.start_norm if update.start_norm > 0 else float(moved > 0),
        norm_ratio=update.norm / update.start_norm if update.start_norm > 0 else 1.0,
    )
