"""From parts, anchor and filters to a plan: which rule is legal for which tensor.

| tensors | legal |
| --- | --- |
| last projector linear | outputs, manifold, inputs |
| other projector linears | inputs; with outputs or manifold: frozen, pullback |
| whole projector | outputs or manifold with hold="penalty" |
| linears of the language model | inputs; its writers (o_proj, down_proj) also outputs, manifold |
| LoRA updates of these | the same, without pullback |
| everything else | frozen |
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from textanchor.config import from_dict
from textanchor.errors import ConfigError, HoldError
from textanchor.holds.anchor import STATES, Anchor
from textanchor.holds.entries import COVERED, FROZEN, NOT_TRAINED, HeldProjector, HeldTensor
from textanchor.holds.filter import FilterConfig
from textanchor.holds.filters import Filters
from textanchor.holds.linear import HeldLinear, Side, held_linear
from textanchor.holds.plan import HoldPlan
from textanchor.holds.pullback import pulled_back
from textanchor.holds.targets import Target, find_targets
from textanchor.spectral import Subspace, metric_basis
from textanchor.vlm.names import base_parameters, is_within
from textanchor.vlm.parts import VLMParts

HELD_PARTS = ("projector", "language_model")
WRITERS = ("o_proj", "out_proj", "down_proj", "fc2")
"""Last names of the linears that write to the residual stream, whose outputs so live in text space."""


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
        self.filters = Filters(anchor, config)
        self.rows: list[HeldTensor] = []
        self.linears: list[HeldLinear] = []
        self.projector: HeldProjector | None = None

    def run(self) -> None:
        if self.config.hold == "penalty":
            self._hold_function()
        else:
            self._hold_linears()
        if all(row.rule == FROZEN for row in self.rows):
            raise HoldError(
                f"nothing of the {self.part} that is trained can be held with mode={self.config.mode!r}; turn on the "
                "gradients of its linears (or LoRA on them) before planning, or leave this part out of the filters"
            )
        order = {name: i for i, name in enumerate(self.parameters)}
        self.rows.sort(key=lambda row: order[row.name])

    def _hold_linears(self) -> None:
        linears = self.parts.projector_linears() if self.part == "projector" else self.parts.text_linears()
        targets, frozen = find_targets(self.parts.model, self.parameters, linears)
        for name, why in frozen.items():
            self._row(name, FROZEN, why)
        for target in targets.values():
            self._hold(target)

    def _hold(self, target: Target) -> None:
        config = self.config
        if config.mode == "inputs":
            self._add(target, "in", self.filters.inputs(target))
        elif self._writes_text(target):
            self._add(target, "out", self.filters.outputs(target), is_text_writer=True)
        elif self.part != "projector":
            raise HoldError(
                f"{target.name}: mode {config.mode!r} is legal for writers to the residual stream only "
                f"({', '.join(WRITERS)}); train no other linears of the language model, or choose mode='inputs'"
            )
        elif config.inner == "pullback":
            text_space = self.filters.text_space(self.parts.embedding_width())
            metric = pulled_back(self.parts, self.anchor, text_space, target.name)
            subspace = self.filters.checked(target.name, config.subspace(metric_basis(metric)))
            self._add(target, "out", subspace, prefix="pulled back, ")
        else:
            for name in target.tensors:
                self._row(name, FROZEN, "inner linear: free, it would move what the last one writes")

    def _writes_text(self, target: Target) -> bool:
        if self.part == "projector":
            return target.name == self.parts.last_projector_linear()[0]
        return target.name.rpartition(".")[2] in WRITERS

    def _add(
        self, target: Target, side: Side, subspace: Subspace, *, is_text_writer: bool = False, prefix: str = ""
    ) -> None:
        is_small = self.part == "projector"
        linear = held_linear(
            target, side, subspace, self.config, self.parameters, is_text_writer=is_text_writer, keep_base=is_small
        )
        self.linears.append(linear)
        self.rows += rows_of(target, side, subspace, self.config, self.part, prefix)

    def _hold_function(self) -> None:
        if self.part != "projector" or self.config.mode == "inputs":
            raise HoldError(
                "hold='penalty' is a term on what the projector gives, so it is legal for the projector with mode "
                f"'outputs' or 'manifold', not for the {self.part} with mode {self.config.mode!r}; use exact, share or "
                "decay"
            )
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
        assert self.config.strength is not None
        self.projector = HeldProjector(name=path, subspace=subspace, strength=self.config.strength, base=base)

    def _row(self, name: str, rule: str, why: str) -> None:
        self.rows.append(HeldTensor(name=name, part=self.part, rule=rule, why=why))


def rows_of(
    target: Target, side: Side, subspace: Subspace, config: FilterConfig, part: str, prefix: str = ""
) -> list[HeldTensor]:
    """What becomes of each trained tensor of a held linear."""
    why = prefix + config.describe(subspace)
    if not target.is_lora:
        return [HeldTensor(name=name, part=part, rule=config.rule(), why=why) for name in target.tensors]
    held, other = target.tensors if side == "in" else target.tensors[::-1]
    letter = "lora_A" if side == "in" else "lora_B"
    return [
        HeldTensor(name=held, part=part, rule=config.rule(), why=why),
        HeldTensor(name=other, part=part, rule=COVERED, why=f"held through {letter}, whatever this one is"),
    ]


def plan_linear(anchor: Anchor, linear: nn.Module, side: Side, options: dict[str, Any]) -> HoldPlan:
    """Plan for one linear by the one sample of an anchor; see `Anchor.plan`."""
    options = {"mode": "inputs" if side == "in" else "outputs"} | options
    config = from_dict(FilterConfig, options, source="Anchor.plan")
    if (config.mode == "inputs") != (side == "in") or config.hold == "penalty" or config.inner is not None:
        raise HoldError(
            f"side {side!r} with mode={config.mode!r}, hold={config.hold!r}, inner={config.inner!r} is not legal for "
            "one linear; legal are inputs with side 'in', outputs and manifold with 'out', and exact, share, decay"
        )
    if list(anchor.moments) != [STATES]:
        raise HoldError(
            "Anchor.plan is for anchors made by Anchor.from_states; use plan_holds with those of fit_anchor"
        )
    parameters = base_parameters(linear)
    targets, frozen = find_targets(linear, parameters, [""])
    if len(targets) != 1:
        raise HoldError(f"{type(linear).__name__}: expected one linear whose weight (or LoRA update) is trained")
    (target,) = targets.values()
    filters = Filters(anchor, config)
    subspace = filters.inputs(target, STATES) if side == "in" else filters.outputs(target, STATES)
    rows = [HeldTensor(name=name, part="linear", rule=FROZEN, why=why) for name, why in frozen.items()]
    linear_held = held_linear(target, side, subspace, config, parameters, is_text_writer=False, keep_base=True)
    return HoldPlan(
        tensors=(*rows, *rows_of(target, side, subspace, config, "linear")),
        linears=(linear_held,),
        paths={"linear": ("",)},
        model=linear,
    )
