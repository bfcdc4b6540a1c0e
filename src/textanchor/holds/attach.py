"""Attach a plan to an optimizer: after each of its steps every held linear is brought back under its rule.

After the step, because AdamW rescales coordinates, so that a projected gradient still moves the weight in protected
directions. The hook sits on the innermost optimizer and so works in a plain loop, under accelerate, and in the Trainer.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from textanchor.errors import HoldError
from textanchor.holds.bound import BoundLinear, FilterCache, bind
from textanchor.holds.entries import PROJECTOR
from textanchor.holds.optimizers import (
    GradientProjection,
    groups_by_parameter,
    is_skipped,
    require_step_size,
    stepping_optimizer,
    without_weight_decay,
)
from textanchor.holds.penalty import ProjectorPenalty
from textanchor.holds.plan import HoldPlan, inside_ddp, listed
from textanchor.holds.tensors import anywhere, require_all_processes
from textanchor.spectral.precision import unrounded
from textanchor.vlm.names import base_modules

if TYPE_CHECKING:
    from textanchor.holds.audit import AuditReport
    from textanchor.holds.probe import Probe

Start = Literal["base", "start"]
LOW_PRECISION = (torch.float16, torch.bfloat16)


def attach(
    plan: HoldPlan,
    optimizer: Any,
    model: nn.Module | None = None,
    *,
    reference: Start = "base",
    state: Mapping[str, Any] | None = None,
) -> "HoldHandle":
    """Hold `model` (by default the one planned for) by `plan` after every step of `optimizer`, until `remove()`.

    Call it after model and optimizer are prepared (DDP, accelerate) and the weights loaded. `reference`: changes count
    from the weights that the plan was made on ("base") or from those of now ("start"). `state`: what
    `HoldHandle.state_dict` gave at the checkpoint that is resumed; it brings its own reference. HoldError where a rule
    cannot keep its promise: the optimizer moves weights outside its step (LOMO), gives others than it trains
    (schedule-free), or does not have a held tensor; one is bfloat16 or float16 under exact; a LoRA update does not
    start at zero; the saved state belongs to another plan or base; the launcher's processes know nothing of each other.
    """
    accelerated = getattr(optimizer, "accelerator_state", None)
    require_all_processes(getattr(accelerated, "num_processes", None))
    stepping = stepping_optimizer(optimizer)
    plan.freeze(model)
    named = plan.parameters(model)
    _check_optimizer(plan, stepping, named)
    cache: FilterCache = {}
    bound = [bind(linear, named, cache) for linear in plan.linears]
    for linear in bound:
        _check_tensors(linear)
    handle = HoldHandle(plan, model if model is not None else plan.model, bound, reference)
    if state is None:
        handle.begin()
    else:
        handle.load_state_dict(state)
    handle.listen(stepping)
    return handle


def _check_optimizer(plan: HoldPlan, optimizer: Optimizer, named: Mapping[str, nn.Parameter]) -> None:
    groups_by_parameter(optimizer, {name: named[name] for name in plan.trained})
    if any(linear.config.hold == "decay" for linear in plan.linears):
        require_step_size(optimizer)
    # under exact the projection undoes what weight decay does to the protected part; a LoRA update decays to its start
    sound = {
        name for linear in plan.linears if linear.config.hold == "exact" or linear.is_lora for name in linear.tensors
    }
    without_weight_decay(optimizer, {name: named[name] for name in plan.trained if name not in sound})


def _check_tensors(bound: BoundLinear) -> None:
    linear = bound.linear
    for name, tensor in zip(linear.tensors, bound.tensors, strict=True):
        if linear.config.hold == "exact" and tensor.dtype in LOW_PRECISION:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise HoldError(
                f"{name} is {kind}: each step rounds it by more than `exact` may leave; load the trained tensors in "
                "float32 (autocast may compute in bfloat16), or use hold='share'"
            )


class HoldHandle:
    """A plan at work; made by `attach`."""

    def __init__(self, plan: HoldPlan, model: nn.Module | None, bound: list[BoundLinear], reference: Start) -> None:
        assert model is not None
        self.plan, self.model, self.reference = plan, inside_ddp(model), reference
        self.penalty: ProjectorPenalty | None = None
        """The term to add to the loss under hold="penalty"; None otherwise."""
        self._bound = bound
        self._held = {name: p for b in bound for name, p in zip(b.linear.tensors, b.tensors, strict=True)}
        self._base = {} if plan.projector is None else plan.projector.base
        self.num_steps = 0
        """Number of optimizer steps after which it has acted."""
        self._hook: Any = None
        self._hashes: dict[int, list[list[int]]] = {}
        """Bits of the linears that had no gradient after any step so far."""
        self._gradients: GradientProjection | None = None

    @torch.no_grad()
    def begin(self) -> None:
        """Start a run: take the reference of now if asked to, and free LoRA inputs under `exact` of held directions."""
        for i, bound in enumerate(self._bound):
            if bound.linear.is_lora:
                _require_zero_update(bound)
                if bound.linear.config.hold == "exact":
                    bound.damp(0.0)
            elif bound.linear.config.target == "remove":
                if self.reference == "start":
                    raise HoldError(
                        f"{bound.linear.name}: target='remove' takes directions out of the weight that the plan was "
                        "made on, so it counts from it; give attach reference='base'"
                    )
                bound.damp(0.0)
            elif self.reference == "start":
                self._bound[i] = bound.at_start()
        if self.reference == "start" and self.plan.projector is not None:
            module = base_modules(self.model)[self.plan.projector.name]
            self._base = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def listen(self, optimizer: Optimizer) -> None:
        """From now on act after each step of `optimizer`."""
        self._hashes = {i: bound.bit_hashes() for i, bound in enumerate(self._bound)}
        self._hook = optimizer.register_step_post_hook(self._after_step)
        projected = [bound for bound in self._bound if bound.linear.config.gradients == "projected"]
        self._gradients = GradientProjection(projected) if projected else None
        if self.plan.projector is not None:
            module = base_modules(self.model)[self.plan.projector.name]
            self.penalty = ProjectorPenalty(self.plan.projector, module, self._base)

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.num_steps += 1
        # what the step left as it was is left so: a rule would act twice on it, or write the rounding of its products
        groups, skipped = groups_by_parameter(optimizer, self._held), is_skipped(optimizer)
        rates = [groups[id(bound.tensors[0])].get("lr") for bound in self._bound]
        has_gradient = [bound.has_gradient for bound in self._bound]
        has_moved = [not skipped and lr != 0 and has for has, lr in zip(has_gradient, rates, strict=True)]
        is_moved = self._anywhere(has_moved)
        # at a rate of 0, too: AdamW then still makes 0.0 of -0.0
        self._require_steps_only(optimizer, self._anywhere(has_gradient))
        with unrounded(bound.tensors[0] for bound in self._bound):
            for i in is_moved:
                self._bound[i].apply(lr=rates[i])

    def _anywhere(self, flags: list[bool]) -> list[int]:
        """Numbers of the linears whose flag is set in any process."""
        found = anywhere(torch.tensor(flags, dtype=torch.bool), [bound.tensors for bound in self._bound])
        return found.nonzero().flatten().tolist()

    def _require_steps_only(self, optimizer: Optimizer, with_gradient: list[int]) -> None:
        """Raise HoldError where a linear moves without ever having a gradient when the step is over.

        A linear that had one once is not looked at again, so that this costs nothing beyond the first steps.
        """
        for i in with_gradient:
            self._hashes.pop(i, None)
        if not self._hashes:
            return
        strays = [i in self._hashes and self._hashes[i] != b.bit_hashes() for i, b in enumerate(self._bound)]
        if moved := [self._bound[i].linear.name for i in self._anywhere(strays)]:
            raise HoldError(
                f"{listed(moved)}: moved without a gradient that was there after the step: {type(optimizer).__name__} "
                "moves weights outside its step (in the backward pass, as LOMO), where no rule can follow, or weights "
                "were loaded after attach. Use an optimizer that moves them in step(), and attach after loading"
            )

    def audit(
        self, model: nn.Module | None = None, *, probe: "Probe | None" = None, saved_dtype: torch.dtype | None = None
    ) -> "AuditReport":
        """What moved since the reference, in the held directions and elsewhere; see `audit.audit_plan`."""
        from textanchor.holds.audit import audit_bound

        plan, model = self.plan, self.model if model is None else model
        if plan.projector is not None:
            plan = replace(plan, projector=replace(plan.projector, base=self._base))
        named = plan.parameters(model)
        bound = [linear.rebound(named) for linear in self._bound]
        return audit_bound(plan, bound, model, probe=probe, saved_dtype=saved_dtype)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, for the checkpoint: the reference, and hashes of plan and base."""
        values = {b.linear.name: b.reference.values for b in self._bound if b.reference is not None}
        values |= {f"{PROJECTOR}/{name}": tensor for name, tensor in self._base.items()}
        return {
            "plan": self.plan.fingerprint,
            "base": self.plan.base_hash,
            "reference": self.reference,
            "values": {name: value.detach().cpu().clone() for name, value in values.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the reference from what `state_dict()` gave; HoldError where plan or base is another. Weights stay."""
        own = {"base": self.plan.base_hash, "plan": self.plan.fingerprint, "reference": self.reference}
        what = {
            "base": "base: make the plan on the weights before training, then load those of the checkpoint",
            "plan": "plan: load the one that the run saved (HoldPlan.load) instead of fitting a new anchor",
            "reference": f"reference: give attach reference={state['reference']!r}",
        }
        for key, value in own.items():
            if state[key] != value:
                raise HoldError(f"the checkpoint's holds belong to another {what[key]}")
        values, is_start = state["values"], self.reference == "start"
        for i, bound in enumerate(self._bound):
            if bound.reference is not None:
                is_full = is_start or bound.reference.is_full
                self._bound[i] = bound.with_reference(values[bound.linear.name], is_full=is_full)
        prefix = f"{PROJECTOR}/"
        self._base = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    def remove(self) -> None:
        """Stop holding; the weights stay as they are."""
        if self._hook is not None:
            self._hook.remove()
        if self._gradients is not None:
            self._gradients.remove()
        if self.penalty is not None:
            self.penalty.remove()


def _require_zero_update(bound: BoundLinear) -> None:
    if bound.change_norm() != 0.0:
        raise HoldError(
            f"{bound.linear.name}: its LoRA update does not start at zero (B A != 0). Use an init with B = 0; re-base "
            "(subtract the start from the base weight and train a second adapter); or, if this run resumes a "
            "checkpoint, give attach the state that was saved with it"
        )
