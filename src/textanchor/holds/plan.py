"""The plan: for every tensor of the held parts a rule and why; what attach, audit and resume read, and nothing else.

Names of tensors are base names (see `vlm/names.py`), so that a plan outlives wrapping by PEFT or accelerate.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from textanchor.errors import HoldError
from textanchor.files import sha256_of_json
from textanchor.holds.entries import COVERED, FILTER, FROZEN, HeldProjector, HeldTensor, pack, unpack
from textanchor.holds.filter import FilterConfig
from textanchor.holds.linear import HeldLinear, Side
from textanchor.holds.store import load_folder, save_folder
from textanchor.holds.targets import NOT_TRAINED, Target
from textanchor.spectral import Subspace
from textanchor.tables import LAYER, Table, merged_numbers
from textanchor.vlm.hashing import hash_of_tensors
from textanchor.vlm.names import base_parameters, is_within

if TYPE_CHECKING:
    from textanchor.holds.audit import AuditReport
    from textanchor.holds.probe import Probe

MAX_NAMES = 3
HEADER = ("part", "tensor", "number", "rule", "why")


@dataclass(frozen=True, kw_only=True, eq=False)
class HoldPlan:
    """What is held in one model and how; made by `plan_holds` or `Anchor.plan`."""

    tensors: tuple[HeldTensor, ...]
    linears: tuple[HeldLinear, ...]
    projector: HeldProjector | None = None
    paths: dict[str, tuple[str, ...]]
    """Held part -> paths of its modules and tensors."""
    model: nn.Module | None = field(default=None, repr=False)
    """The model that was planned for; a loaded plan has none unless it is given one."""

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the tensors that train under a rule."""
        return tuple(tensor.name for tensor in self.tensors if tensor.rule != FROZEN)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the tensors that the plan freezes."""
        return tuple(tensor.name for tensor in self.tensors if tensor.rule == FROZEN)

    def parameters(self, model: nn.Module | None = None) -> dict[str, nn.Parameter]:
        """Base name to parameter of `model` (by default the one planned for), which DDP may wrap.

        HoldError where there is no model, where it lacks a tensor of the plan, or where another tensor of a held part
        trains.
        """
        model = self.model if model is None else model
        if model is None:
            raise HoldError("this plan was loaded without a model; give one, as in attach(plan, optimizer, model)")
        named = base_parameters(inside_ddp(model))
        known = {tensor.name for tensor in self.tensors}
        missing = sorted(known - set(named))
        if missing:
            raise HoldError(
                f"{type(model).__name__} has no {listed(missing)}, which the plan names; plan for the model as it will "
                "be trained (after PEFT has wrapped it)"
            )
        owned = [path for paths in self.paths.values() for path in paths]
        free = [name for name, p in named.items() if p.requires_grad and name not in known and is_within(name, owned)]
        if free:
            raise HoldError(
                f"{listed(free)} would train without a rule in a held part: added or unfrozen after the plan was made; "
                "call plan_holds on the model as it will be trained"
            )
        return named

    def freeze(self, model: nn.Module | None = None) -> None:
        """Turn off the gradients of every tensor that the plan freezes; call it before DDP wraps the model."""
        named = self.parameters(model)
        for name in self.frozen:
            named[name].requires_grad_(False)
            named[name].grad = None

    @cached_property
    def base_hash(self) -> str:
        """SHA-256 over the weights before training: of two plans on one base it is the same."""
        function = [] if self.projector is None else sorted(self.projector.base.items())
        linears = {linear.name: linear.base_hash for linear in self.linears}
        return sha256_of_json([linears, hash_of_tensors(function)])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of rules, filters and names: plans with one fingerprint hold the same."""
        values, tensors = pack(self.tensors, self.linears, self.projector)
        values["tensors"] = [[tensor.name, tensor.rule] for tensor in self.tensors]
        filters = hash_of_tensors(sorted((name, t) for name, t in tensors.items() if name.startswith(f"{FILTER}/")))
        return sha256_of_json([values, filters])

    def audit(
        self, model: nn.Module | None = None, *, probe: "Probe | None" = None, saved_dtype: torch.dtype | None = None
    ) -> "AuditReport":
        """What moved since the plan was made, in the held directions and elsewhere; see `audit.audit_plan`."""
        from textanchor.holds.audit import audit_plan

        return audit_plan(self, model, probe=probe, saved_dtype=saved_dtype)

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the plan, without the model, as a folder with plan.safetensors and plan.json."""
        values, tensors = pack(self.tensors, self.linears, self.projector)
        save_folder(path, "plan", tensors, values | {"paths": self.paths}, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str, model: nn.Module | None = None) -> "HoldPlan":
        """Read what `save` wrote, for `model` if given; HoldError where the folder holds no plan."""
        tensors, values = load_folder(path, "plan")
        paths = {part: tuple(names) for part, names in values["paths"].items()}
        return cls(**unpack(values, tensors), paths=paths, model=model)

    def __str__(self) -> str:
        return plan_table(self.tensors)


def inside_ddp(model: nn.Module) -> nn.Module:
    """The model that torch's data-parallel wrapper holds; any other model itself."""
    children: dict[str, Any] = dict(model.named_children())
    is_wrapper = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
    return children["module"] if is_wrapper else model


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")


def rows_of(
    target: Target,
    side: Side,
    subspace: Subspace,
    config: FilterConfig,
    part: str,
    *,
    across: Subspace | None = None,
    prefix: str = "",
) -> list[HeldTensor]:
    """What becomes of each trained tensor of a held linear."""
    why = prefix + config.describe(subspace, across)

    def row(name: str, rule: str, why: str) -> HeldTensor:
        return HeldTensor(name=name, part=part, rule=rule, why=why)

    if not target.is_lora:
        return [row(name, config.rule(), why) for name in target.tensors]
    if across is not None:
        lora_a, lora_b = target.tensors
        return [
            row(lora_a, config.rule(), f"{why}; second half of the rank"),
            row(lora_b, config.rule(), f"{why}; first half of the rank"),
        ]
    held, other = target.tensors if side == "in" else target.tensors[::-1]
    letter = "lora_A" if side == "in" else "lora_B"
    return [row(held, config.rule(), why), row(other, COVERED, f"held through {letter}, whatever this one is")]


def plan_table(tensors: Iterable[HeldTensor]) -> str:
    """Rows of part, tensor (layers as *), number of tensors, rule and why (numbers that differ as least-largest).

    Tensors that are frozen because they were not trained in the first place share one row per part.
    """
    groups: dict[tuple[str, str, str], list[str]] = {}
    for tensor in sorted(tensors, key=lambda tensor: tensor.why == NOT_TRAINED):
        name = "(others)" if tensor.why == NOT_TRAINED else LAYER.sub("*", tensor.name)
        key = (tensor.part, name, tensor.rule)
        groups.setdefault(key, []).append(tensor.why)
    rows = [(part, name, str(len(whys)), rule, merged_numbers(whys)) for (part, name, rule), whys in groups.items()]
    return Table(HEADER, rows).aligned()
