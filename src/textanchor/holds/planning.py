"""From parts, anchor and filters to a plan: a rule for every tensor. `legal.py` says which rule is legal for which."""

from collections.abc import Mapping

import torch

from textanchor.errors import ConfigError, HoldError
from textanchor.holds.anchor import Anchor
from textanchor.holds.bases import Filters, leading
from textanchor.holds.entries import FROZEN, HeldProjector, HeldTensor
from textanchor.holds.filter import FilterConfig
from textanchor.holds.legal import (
    BY_FUNCTION,
    held_text_linears,
    require_last,
    require_legal,
    require_part,
    writes_text,
)
from textanchor.holds.linear import HeldLinear, Side, held_linear
from textanchor.holds.plan import HoldPlan, rows_of
from textanchor.holds.pullback import pulled_back
from textanchor.holds.targets import NOT_TRAINED, Target, find_targets
from textanchor.spectral import Subspace, metric_basis
from textanchor.spectral.precision import working
from textanchor.vlm.names import is_within
from textanchor.vlm.parts import VLMParts

HELD_PARTS = ("projector", "language_model")


def plan_holds(parts: VLMParts, anchor: Anchor, filters: FilterConfig | Mapping[str, FilterConfig]) -> HoldPlan:
    """A rule, or none because frozen, for every tensor of the held parts.

    `filters`: one `FilterConfig` for the projector, or one for each of "projector" and "language_model". `parts` are
    those of the model as it will be trained: wrapped by PEFT, with `requires_grad` set, and with its starting weights.
    HoldError names the legal modes where one is not.
    """
    chosen = {"projector": filters} if isinstance(filters, FilterConfig) else dict(filters)
    unknown = [part for part in chosen if part not in HELD_PARTS]
    if unknown or not chosen:
        raise ConfigError(f"filters are for {' and '.join(HELD_PARTS)}, found {', '.join(unknown) or 'none'}")
    planners = [_PartPlanner(parts, anchor, part, config) for part, config in chosen.items()]
    for planner in planners:
        planner.run()
    penalties = [planner.projector for planner in planners if planner.projector is not None]
    text_paths = (parts.language_model, parts.input_embedding, *([parts.output_head] if parts.output_head else []))
    paths = {"projector": parts.projector, "language_model": text_paths}
    return HoldPlan(
        tensors=tuple(row for planner in planners for row in planner.rows),
        linears=tuple(linear for planner in planners for linear in planner.linears),
        projector=penalties[0] if penalties else None,
        paths={part: paths[part] for part in chosen},
        model=parts.model,
    )


class _PartPlanner:
    """Walks over the tensors of one held part."""

    def __init__(self, parts: VLMParts, anchor: Anchor, part: str, config: FilterConfig) -> None:
        self.parts, self.anchor, self.part, self.config = parts, anchor, part, config
        self.parameters = parts.parameters_of(part)  # pyright: ignore[reportArgumentType]
        # the penalty rounds its few directions itself
        dtype = torch.float64 if config.hold == "penalty" else working(self.parameters.values())
        self.filters = Filters(anchor, config, dtype)
        self.rows: list[HeldTensor] = []
        self.linears: list[HeldLinear] = []
        self.projector: HeldProjector | None = None

    def run(self) -> None:
        require_part(self.config, self.part)
        if self.config.hold == "penalty":
            self._hold_function()
        else:
            self._hold_linears()
        if all(row.rule == FROZEN for row in self.rows):
            raise HoldError(
                f"nothing of the {self.part} that is trained can be held with mode={self.config.mode!r}; turn on the "
                "gradients of its linears (or LoRA on them) before planning, or leave this part out of the filters"
                + (f"; {BY_FUNCTION}" if self.part == "projector" and self.config.hold != "penalty" else "")
            )
        order = {name: i for i, name in enumerate(self.parameters)}
        self.rows.sort(key=lambda row: order[row.name])

    def _hold_linears(self) -> None:
        linears = self.parts.projector_linears() if self.part == "projector" else self.parts.text_linears()
        targets, frozen = find_targets(self.parts.model, self.parameters, linears)
        if self.part == "language_model" and targets:
            held_text_linears(self.config, targets)
        for name, why in frozen.items():
            owner = name.rpartition(".")[0]
            is_inner = self.part == "language_model" and owner in linears and not self._is_held(owner)
            self._row(name, FROZEN, self._why_inner() if is_inner else why)
        for target in targets.values():
            self._hold(target)

    def _hold(self, target: Target) -> None:
        config = self.config
        require_legal(config, target)
        if config.mode == "inputs" and self.filters.are_all_sinks(target):
            for name in target.tensors:
                self._row(name, FROZEN, "no wider than the sinks of its inputs, which are always held")
        elif config.mode == "inputs":
            self._add(target, "in", self.filters.inputs(target))
        elif self._is_held(target.name):
            if self.part == "projector":
                require_last(self.parts, target.name)
            self._add_to_outputs(target, self.filters.outputs(target), is_text_writer=True)
        elif config.inner == "pullback":
            text_space = self.filters.text_space(self.parts.embedding_width())
            basis = metric_basis(pulled_back(self.parts, self.anchor, text_space, target.name))
            subspace = leading(config, basis, compact=config.mode != "coupling")
            self._add_to_outputs(target, self.filters.checked(target.name, subspace), prefix="pulled back, ")
        else:
            for name in target.tensors:
                self._row(name, FROZEN, self._why_inner())

    def _is_held(self, name: str) -> bool:
        """Whether a linear is held by its own inputs, or by what it writes into text space."""
        if self.config.mode == "inputs":
            return True
        return name in self.parts.text_writers() if self.part == "projector" else writes_text(name)

    def _why_inner(self) -> str:
        if self.part == "projector":
            return "inner linear: free, it would move what the last one writes"
        return f"inner linear: mode {self.config.mode} holds writers to the residual stream, and trains no others"

    def _add_to_outputs(
        self, target: Target, outputs: Subspace, *, is_text_writer: bool = False, prefix: str = ""
    ) -> None:
        if self.config.mode != "coupling":
            self._add(target, "out", outputs, is_text_writer=is_text_writer, prefix=prefix)
            return
        inputs = self.filters.inputs(target)
        if self.config.hold == "share" and len(inputs.gains_K) * len(outputs.gains_K) == inputs.width * outputs.width:
            raise HoldError(
                f"{target.name}: hold='share' compares the protected part with the rest, but {self.config.amount} "
                "leaves no pair of directions free; hold fewer directions, or use decay"
            )
        self._add(target, "in", inputs, across=outputs, prefix=prefix)

    def _add(
        self,
        target: Target,
        side: Side,
        subspace: Subspace,
        *,
        across: Subspace | None = None,
        is_text_writer: bool = False,
        prefix: str = "",
    ) -> None:
        is_small = self.part == "projector"
        linear = held_linear(
            target,
            side,
            subspace,
            self.config,
            self.parameters,
            across=across,
            is_text_writer=is_text_writer,
            keep_base=is_small,
        )
        self.linears.append(linear)
        self.rows += rows_of(target, side, subspace, self.config, self.part, across=across, prefix=prefix)

    def _hold_function(self) -> None:
        path = self.parts.projector_output
        subspace = self.filters.text_space(self.parts.embedding_width())
        for name, parameter in self.parameters.items():
            if not parameter.requires_grad:
                self._row(name, FROZEN, NOT_TRAINED)
            elif is_within(name, path):
                self._row(name, self.config.rule(), self.config.describe(subspace))
            else:
                self._row(name, FROZEN, f"outside {path}, whose function is held")
        base = {name: value.detach().clone() for name, value in self.parts.module(path).state_dict().items()}
        self.projector = HeldProjector(name=path, subspace=subspace, config=self.config, base=base)

    def _row(self, name: str, rule: str, why: str) -> None:
        self.rows.append(HeldTensor(name=name, part=self.part, rule=rule, why=why))
