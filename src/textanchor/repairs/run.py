"""`repair`: what a plan takes back of a tuned model, at a given or chosen strength, written as plain weights."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from textanchor.config import to_dict
from textanchor.diffs.structure import PartNames, Structure
from textanchor.errors import ConfigError, ModelError
from textanchor.files import atomic_directory
from textanchor.holds import HoldPlan
from textanchor.outputs import require_room
from textanchor.records import environment, memory_cost
from textanchor.repairs.apply import blended, is_changed, repaired
from textanchor.repairs.plan import RepairPlan, default_plan
from textanchor.repairs.report import RepairedTensor, RepairReport, rows_of
from textanchor.repairs.source import Models, load_models, open_pair
from textanchor.repairs.stream import can_stream, write_interpolated
from textanchor.repairs.validate import SweepPoint, Validation, best, sweep
from textanchor.repairs.write import write_model
from textanchor.vlm.parts import find_parts


def repair(
    tuned: str | Path,
    base: str | Path,
    out: str | Path,
    *,
    plan: RepairPlan | None = None,
    strength: float = 1.0,
    validation: Validation | None = None,
    vision_tower: str | None = None,
    projector: str | Sequence[str] | None = None,
    language_model: str | None = None,
) -> RepairReport:
    """Write a repaired copy of `tuned` into the new folder `out`, which loads with Transformers alone.

    `tuned`: a folder, or a PEFT adapter's folder. `plan`: half of every part's change unless given. `strength`
    lies between the tuned model (0) and the plan in full (1); with `validation` the one with the best H-mean of
    learned and kept accuracy is taken. `vision_tower`, `projector` and `language_model` name parts as in `find_parts`.
    ModelError where the repair would not be exact: quantised weights, tensors that are missing, not finite or of
    another shape; and where the plan treats parts differently that were not found.
    """
    began = time.monotonic()
    plan = default_plan() if plan is None else plan
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength must lie between 0 and 1, found {strength}")
    if validation is not None and strength != 1.0:
        raise ConfigError("strength has no effect beside validation, which chooses it; leave it out")
    names = PartNames(vision_tower, projector, language_model)
    with atomic_directory(out) as folder:
        pair = open_pair(base, tuned, names)
        if pair.structure.not_found and not plan.is_uniform:
            raise ModelError(pair.structure.not_found)
        is_streamed = validation is None and can_stream(pair, plan)
        points: tuple[SweepPoint, ...] = ()
        audit: tuple[dict, ...] = ()
        if is_streamed:
            rows: Sequence[RepairedTensor] = write_interpolated(pair, plan, strength, folder)
        else:
            require_room(out, sum(stored.num_bytes for stored in pair.base.tensors.values()))
            needs_processor = validation is not None or bool(plan.filters)
            work = _InMemory(load_models(pair, base, needs_processor=needs_processor), plan, names)
            if validation is not None:
                points = sweep(work.models.base, work.models.processor, validation, work.set_strength)
                strength = best(points).strength
            work.set_strength(strength)
            rows, audit = work.rows(), work.audit()
            write_model(work.models, work.values(strength), folder)
        report = RepairReport(
            base=str(base),
            tuned=str(tuned),
            out=str(out),
            strength=strength,
            tensors=tuple(rows),
            sweep=points,
            audit=audit,
            plan=to_dict(plan),
            record={
                "validation": None if validation is None else to_dict(validation),
                "way": "shard by shard" if is_streamed else "loaded models",
                "cost": {"seconds": time.monotonic() - began, **memory_cost()},
                **environment(),
            },
        )
        report.save(folder)
    return report


class _InMemory:
    """A repair on loaded models: all values are between the tuned and the fully repaired ones."""

    def __init__(self, models: Models, plan: RepairPlan, names: PartNames) -> None:
        self.models = models
        self.start = {name: values.clone() for name, values in models.start.items()}
        self.holds = plan.holds(find_parts(models.base, **vars(names)), models.processor) if plan.filters else None
        self.parts = {name: models.pair.structure.group_of(name) for name in models.tuned}
        self.full = repaired(
            self.start, models.tuned, lambda name: plan.interpolate.get(self.parts[name], 1.0), self.holds
        )

    def values(self, strength: float) -> dict[str, Tensor]:
        """The tensors that the repair changes, at that strength."""
        return {name: blended(self.models.tuned[name], new, strength) for name, new in self.full.items()}

    @torch.no_grad()
    def set_strength(self, strength: float) -> None:
        """Put the tuned weights, repaired at that strength, into the model."""
        state, new = self.models.base.state_dict(), self.values(strength)
        for name, tuned in self.models.tuned.items():
            state[name].copy_(new.get(name, tuned))

    def rows(self) -> Sequence[RepairedTensor]:
        """One row for each changed tensor, of the model as it is now."""
        now = self.models.base.state_dict()
        rules = {} if self.holds is None else {tensor.name: tensor.rule for tensor in self.holds.tensors}
        return rows_of(self.start, self.models.tuned, {name: now[name] for name in self.full}, self.parts, rules)

    def audit(self) -> tuple[dict, ...]:
        """What the hold plan's audit says of the model as it is now."""
        if self.holds is None:
            return ()
        report = self.holds.audit(self.models.base, saved_dtype=self.models.dtype)
        return tuple(report.to_dict()["tensors"])


def repair_tensors(
    tuned: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    *,
    interpolate: Mapping[str, float] | None = None,
    holds: HoldPlan | None = None,
) -> dict[str, Tensor]:
    """The same on two state dicts: a new one with the repaired values, equal to `tuned` where nothing was taken back.

    `interpolate`: part -> alpha, parts being told by the words in the names; `holds`: a plan made on the base.
    ModelError where a changed tensor has no counterpart of its shape.
    """
    alphas = RepairPlan(interpolate=dict(interpolate)).interpolate if interpolate else {}
    if holds is None and not alphas:
        raise ConfigError("nothing is taken back; give interpolate (part -> alpha) or holds (a HoldPlan)")
    odd = [name for name in tuned if name not in base or base[name].shape != tuned[name].shape]
    if odd:
        raise ModelError(f"state dicts: {odd[0]!r} has no counterpart of its shape in the base ({len(odd)} in all)")
    changed = {name: values for name, values in tuned.items() if is_changed(base[name], values)}
    held = set() if holds is None else {name for linear in holds.linears for name in linear.tensors}
    chosen = {name: values for name, values in tuned.items() if name in changed or name in held}
    structure = Structure()
    new = repaired(
        {name: base[name] for name in chosen}, chosen, lambda name: alphas.get(structure.group_of(name), 1.0), holds
    )
    return {name: new.get(name, values) for name, values in tuned.items()}
