"""What a run did to each trained tensor, beside the rule that it was to keep."""

from dataclasses import dataclass
from typing import Any

from textanchor.holds import AuditRow, audit_plan
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
    change_norm: float
    """||W - W0||."""
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
    moved = {update.name: _Moved.of(update) for update in start.updates()}
    if attachment.plan is None:
        return tuple(_row(name, FREE, entry, None) for name, entry in moved.items()), None
    report = audit_plan(attachment.plan, start.parts.model, probe=attachment.probe, start=start.full)
    report.require_kept()
    rules = {tensor.name: tensor.rule for tensor in attachment.plan.tensors}
    held = {f"{row.name}.weight": row for row in report.rows}
    rules |= {name: row.rule for name, row in held.items()}  # LoRA's own tensors have other names than the merged one
    tensors = tuple(_row(name, rules.get(name, FREE), entry, held.get(name)) for name, entry in moved.items())
    return tensors, None if report.projector is None else dict(vars(report.projector))


@dataclass(frozen=True)
class _Moved:
    """Norms of a tensor's change, start and end."""

    change: float
    start: float
    now: float

    @classmethod
    def of(cls, update: Update) -> "_Moved":
        return cls(float(update.delta.norm()), update.start_norm, update.norm)


def _row(name: str, rule: str, moved: _Moved, held: AuditRow | None) -> TensorAudit:
    return TensorAudit(
        name=name,
        rule=rule,
        weight_leak=None if held is None else held.weight_leak,
        weight_leak_bound=None if held is None else held.bound,
        function_leak=None if held is None else held.function_leak,
        change_norm=moved.change,
        relative_update=moved.change / moved.start if moved.start > 0 else float(moved.change > 0),
        norm_ratio=moved.now / moved.start if moved.start > 0 else 1.0,
    )
