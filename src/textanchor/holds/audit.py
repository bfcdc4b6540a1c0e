"""The audit: what moved, and how much of it in the protected directions; of the weights and of the function.

- weight leak ||P_out Delta P_in||_F / ||Delta||_F on the merged weight, which `exact` keeps within
  1e-6 + 2 eps ||W0||_F / ||Delta||_F (eps of the tensor's type: W0 + Delta cannot be stored better);
- function leak, outputs and manifold: E||P (f(v) - f0(v))||^2 / E||f(v) - f0(v)||^2 of the whole projector on a probe;
- function leak, inputs and coupling: E||P_out Delta P_in x||^2 / E||Delta x||^2 on the linear's own inputs x before
  training (with the constant where a bias is held): how much of the change in its outputs comes from the held part of
  its inputs, and under coupling also lies in the held part of its outputs.

Shape legend: R rows and D width of the filtered space (see `linear.py`), N tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.errors import HoldError
from textanchor.holds.bound import BoundLinear, bind
from textanchor.holds.entries import HeldProjector
from textanchor.holds.linear import matrix, protected
from textanchor.holds.penalty import protected_energy
from textanchor.holds.plan import HoldPlan, inside_ddp, listed
from textanchor.holds.probe import Probe
from textanchor.holds.tensors import dense, gathered
from textanchor.spectral import Subspace
from textanchor.tables import Table
from textanchor.vlm.names import base_modules, is_within

ABSOLUTE_BOUND, ROUNDINGS = 1e-6, 2.0


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """What moved in one held linear, or in a projector held by its function, which has no leak of weights."""

    name: str
    rule: str
    protected_norm: float | None = None
    """||P_out Delta P_in||_F."""
    change_norm: float
    """||Delta||_F; of full linears of the language model estimated, unless their start is given (`norm_sketch.py`)."""
    weight_leak: float | None = None
    bound: float | None = None
    """Largest weight leak that `exact` may leave."""
    function_leak: float | None = None
    """None where the probe has no inputs of this linear, or its start is not known."""
    relative_update: float | None = None
    """||Delta||_F / ||W0||_F; None where W0 is zero, or known to its quantiser only. So is what follows."""
    norm_ratio: float | None = None
    """||W||_F / ||W0||_F."""
    saved_leak: float | None = None
    """Weight leak after the merged weight is rounded to the type that it is saved in."""

    @property
    def is_kept(self) -> bool:
        """Whether the promise of `exact` holds, which it does only where it was measured; others promise no number."""
        if self.rule != "exact":
            return True
        return self.weight_leak is not None and self.bound is not None and self.weight_leak <= self.bound


@dataclass(frozen=True, kw_only=True)
class FunctionAudit:
    """How the visual tokens of the probe changed."""

    leak: float | None
    """Protected share of the energy of the change; None where no directions of the outputs are protected."""
    leak_normalized: float | None
    """The same after every token is divided by its root mean square, which is what the language model sees first."""
    relative_change: float
    """sqrt(E||f - f0||^2 / E||f0||^2)."""
    norm_ratio: float
    """Mean norm of a visual token over that before."""


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """One row for each held linear, and the projector's function where a probe was given."""

    rows: tuple[AuditRow, ...]
    projector: FunctionAudit | None

    @property
    def broken(self) -> tuple[AuditRow, ...]:
        """Rows under `exact` that leak more than their bound."""
        return tuple(row for row in self.rows if not row.is_kept)

    def require_kept(self) -> None:
        """Raise HoldError naming the worst tensor where `exact` did not keep its promise."""
        if self.broken:
            worst = max(self.broken, key=lambda row: row.weight_leak or 0.0)
            raise HoldError(
                f"{worst.name}: {worst.weight_leak:.2g} of its change lies in protected directions, more than the "
                f"{worst.bound:.2g} that rounding explains ({len(self.broken)} linears in all); something wrote to it "
                "after the optimizer's step, or another optimizer moved it"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values: `tensors` (a list of rows) and `projector`."""
        return {
            "tensors": [dict(vars(row)) for row in self.rows],
            "projector": None if self.projector is None else dict(vars(self.projector)),
        }

    def __str__(self) -> str:
        header = ("linear", "rule", "weight leak", "bound", "function leak", "update / weight", "norm ratio")
        keys = ("weight_leak", "bound", "function_leak", "relative_update", "norm_ratio")
        rows = [(row.name, row.rule, *(_shown(getattr(row, key)) for key in keys)) for row in self.rows]
        lines = [Table(header, rows).aligned()]
        if self.projector is not None:
            values = (f"{key.replace('_', ' ')} {_shown(value)}" for key, value in vars(self.projector).items())
            lines.append(f"projector on the probe: {', '.join(values)}")
        return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def audit_plan(
    plan: HoldPlan,
    model: nn.Module | None = None,
    *,
    probe: Probe | None = None,
    saved_dtype: torch.dtype | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> AuditReport:
    """What moved since the plan was made, in a model that was held or not.

    `probe` adds function leaks, `saved_dtype` the weight leak after rounding to that type. `start` has the weights
    before training by base name, for whoever kept them: a plan keeps those of the language model in part only.
    HoldError where the model lacks a tensor of the plan (it was merged or belongs to another plan), and where a held
    weight is NaN or infinite.
    """
    named = plan.parameters(model)
    bound = [bind(linear, named) for linear in plan.linears]
    model = plan.model if model is None else model
    assert model is not None
    return audit_bound(plan, bound, model, probe=probe, saved_dtype=saved_dtype, start=start)


@torch.no_grad()
def audit_bound(
    plan: HoldPlan,
    bound: Sequence[BoundLinear],
    model: nn.Module,
    *,
    probe: Probe | None,
    saved_dtype: torch.dtype | None,
    start: Mapping[str, Tensor] | None = None,
) -> AuditReport:
    """The audit of linears that are bound to tensors already; see `audit_plan`."""
    _require_finite(plan, model)
    weights = base_modules(inside_ddp(model))
    in_projector = [b for b in bound if is_within(b.linear.name, plan.paths.get("projector", ()))]
    # deepstack has several; the probe tells of one
    output = "" if probe is None or probe.module is None else probe.module
    writer = next((b for b in in_projector if b.linear.is_text_writer and is_within(b.linear.name, output)), None)
    function, inputs = None, {} if probe is None else probe.inputs
    if probe is not None and probe.outputs_ND is not None:
        held = plan.projector or (writer.linear if writer else None)
        start_ND = probe.outputs_ND
        if held is not None and held.config.target == "remove":
            start_ND = start_ND - held.subspace.protected(start_ND)
        space = None if held is None else held.subspace
        function = _audit_function(start_ND, probe.outputs_of(inside_ddp(model)), space)
    leak = None if function is None else function.leak
    rows = []
    for linear in bound:
        whole = linear.gathered() if start is None else linear.gathered().with_start(start)
        function_leak = leak if linear is writer else _input_leak(whole, inputs)
        rows.append(_audit_linear(whole, weights[linear.linear.name], function_leak, saved_dtype))
    if plan.projector is not None:
        rows.append(_audit_projector(plan.projector, weights[plan.projector.name], leak))
    return AuditReport(rows=tuple(rows), projector=function)


def _require_finite(plan: HoldPlan, model: nn.Module) -> None:
    named = plan.parameters(model)
    broken = [name for name in plan.trained if not gathered(named[name].detach()).isfinite().all()]
    if broken:
        raise HoldError(
            f"{listed(broken)}: held, and now NaN or infinite, so that nothing can be said of what it kept. The "
            "optimizer's steps made it so: lower the learning rate, and go on from weights of before"
        )


def _audit_linear(
    bound: BoundLinear, module: nn.Module, function_leak: float | None, saved_dtype: torch.dtype | None
) -> AuditRow:
    linear = bound.linear
    protected_norm, change = bound.protected_norm(), bound.change_norm()
    start_RD, now_RD = _start_and_now(bound, module)
    base_norm, eps = linear.base_norm or 0.0, torch.finfo(bound.tensors[0].dtype).eps
    return AuditRow(
        name=linear.name,
        rule=linear.config.rule(),
        protected_norm=protected_norm,
        change_norm=change,
        weight_leak=protected_norm / change if change else 0.0,
        # of a base that only its quantiser knows, into which nothing can be merged, the second term is 0
        bound=ABSOLUTE_BOUND + (ROUNDINGS * eps * base_norm / change if change else 0.0),
        function_leak=function_leak,
        relative_update=change / base_norm if base_norm else None,
        norm_ratio=None if now_RD is None or not base_norm else float(now_RD.norm()) / base_norm,
        saved_leak=None if saved_dtype is None else _saved_leak(bound, start_RD, now_RD, saved_dtype),
    )


def _audit_projector(held: HeldProjector, module: nn.Module, function_leak: float | None) -> AuditRow:
    """How far a projector went whose function is held: of all its tensors together."""
    now = {name: gathered(parameter.detach()).double() for name, parameter in module.named_parameters()}
    change = math.hypot(*(float((now[name] - held.base[name].to(now[name])).norm()) for name in now))
    start = math.hypot(*(float(held.base[name].double().norm()) for name in now))
    return AuditRow(
        name=held.name,
        rule=held.config.rule(),
        change_norm=change,
        function_leak=function_leak,
        relative_update=change / start,
        norm_ratio=math.hypot(*(float(value.norm()) for value in now.values())) / start,
    )


def _start_and_now(bound: BoundLinear, module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """X before training and now, merged, in float64; None where it cannot be known."""
    if not bound.linear.is_lora:
        start_RD = bound.whole_base()
        return None if start_RD is None else start_RD.double(), matrix(bound.tensors, bound.linear.side).double()
    assert isinstance(module.weight, Tensor)
    weight, change_RD = dense(gathered(module.weight.detach())), bound.change()
    if weight is None or change_RD is None:
        return None, None
    start_RD = weight.to(change_RD) if bound.linear.side == "in" else weight.T.to(change_RD)
    return start_RD, start_RD + change_RD


def _saved_leak(bound: BoundLinear, start: Tensor | None, now: Tensor | None, dtype: torch.dtype) -> float | None:
    if start is None or now is None:
        return None
    change_RD = now.to(dtype).to(start) - start
    total = float(change_RD.norm())
    return float(protected(change_RD, bound.subspace, bound.across).norm()) / total if total else 0.0


def _input_leak(bound: BoundLinear, inputs: Mapping[str, Tensor]) -> float | None:
    """E||P_out Delta P_in x||^2 / E||Delta x||^2; None for outputs, without inputs, or with the start unknown."""
    if bound.linear.side != "in" or bound.linear.name not in inputs:
        return None
    change_RD = bound.change()
    if change_RD is None:
        return None
    x_ND = inputs[bound.linear.name].to(change_RD)
    if bound.subspace.width > x_ND.shape[1]:
        x_ND = torch.cat([x_ND, x_ND.new_ones(len(x_ND), 1)], dim=1)
    total = float((x_ND @ change_RD.T).square().sum())
    held_NR = bound.subspace.protected(x_ND) @ change_RD.T
    held_NR = held_NR if bound.across is None else bound.across.protected(held_NR)
    return float(held_NR.square().sum()) / total if total else 0.0


def _audit_function(start_ND: Tensor, now_ND: Tensor, space: Subspace | None) -> FunctionAudit:
    normalized = _rms_normalized(start_ND), _rms_normalized(now_ND)
    return FunctionAudit(
        leak=None if space is None else _function_leak(start_ND, now_ND, space),
        leak_normalized=None if space is None else _function_leak(*normalized, space),
        relative_change=float((now_ND - start_ND).norm() / start_ND.norm()),
        norm_ratio=float(now_ND.norm(dim=1).mean() / start_ND.norm(dim=1).mean()),
    )


def _function_leak(start_ND: Tensor, now_ND: Tensor, space: Subspace) -> float:
    change_ND = now_ND - start_ND
    total = float(change_ND.square().sum(1).mean())
    return float(protected_energy(change_ND, space)) / total if total else 0.0


def _rms_normalized(states_ND: Tensor) -> Tensor:
    return states_ND / states_ND.square().mean(1, keepdim=True).sqrt().clamp_min(torch.finfo(states_ND.dtype).tiny)
