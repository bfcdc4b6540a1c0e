"""Every combination of mode, gains, hold, target and kind of linear is either held, or refused by name."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from helpers.held_models import (
    plan_for,
    projector_loss,
    text_loss,
    train,
    trained_by_lora,
    trained_in_full,
    trained_parameters,
)
from textanchor.errors import ConfigError, HoldError
from textanchor.holds import HoldPlan, attach
from textanchor.vlm.parts import VLMParts

MODES = ("outputs", "manifold", "inputs", "coupling")
GAINS = ("top", "ridge", "power")
HOLDS = ("exact", "share", "penalty", "decay")
TARGETS = ("preserve", "remove")

PROJECTOR = [f"model.multi_modal_projector.linear_{i}" for i in (1, 2)]
LAYER = "model.language_model.layers.0"
LINEARS = {"projector": PROJECTOR, "writers": [f"{LAYER}.self_attn.o_proj"], "readers": [f"{LAYER}.self_attn.q_proj"]}
KINDS = [f"{where} {how}" for where in LINEARS for how in ("in full", "by LoRA")]


class Case(NamedTuple):
    """One combination."""

    mode: str
    gains: str
    hold: str
    target: str
    kind: str

    @property
    def is_text(self) -> bool:
        return not self.kind.startswith("projector")

    @property
    def is_lora(self) -> bool:
        return self.kind.endswith("LoRA")


REFUSALS: list[tuple[Callable[[Case], bool], str]] = [
    # what no linear can have
    (lambda c: c.hold == "exact" and c.gains != "top", "hold='exact' takes gains of 0 or 1 only"),
    (lambda c: c.target == "remove" and c.mode == "inputs", "takes directions out of what the projector writes"),
    (lambda c: c.target == "remove" and c.gains != "top", "takes whole directions out"),
    # what this kind of linear cannot have
    (lambda c: c.hold == "penalty" and (c.is_text or c.mode in ("inputs", "coupling")), "legal for the projector with"),
    (lambda c: c.is_text and c.target == "remove", "the last projector linear only"),
    (lambda c: c.kind.startswith("readers") and c.mode != "inputs", "writers to the residual stream only"),
    (lambda c: c.is_lora and c.target == "remove" and c.hold != "penalty", "which LoRA leaves as it is"),
    (lambda c: (c.mode, c.gains, c.hold) == ("manifold", "ridge", "share"), "leaves no direction free"),
    (lambda c: c.is_lora and c.mode == "coupling" and c.hold == "share", "splits the rank"),
    (lambda c: c.is_lora and c.mode == "coupling" and c.gains != "top", "splits the rank"),
]


def parts_of(kind: str) -> VLMParts:
    where, how = kind.split(maxsplit=1)
    if how == "by LoRA":
        return trained_by_lora(LINEARS[where])
    parts = trained_in_full("projector")
    for name, parameter in parts.model.named_parameters():
        parameter.requires_grad_(name.removesuffix(".weight").removesuffix(".bias") in LINEARS[where])
    return parts


def plan_of(case: Case, parts: VLMParts, **options: Any) -> HoldPlan:
    part = "language_model" if case.is_text else "projector"
    return plan_for(parts, part, **{key: getattr(case, key) for key in ("mode", "gains", "hold", "target")} | options)


@pytest.mark.parametrize("kind", KINDS)
def test_each_combination_is_held_or_refused_by_name(kind: str) -> None:
    parts, num_held = parts_of(kind), 0
    for combination in itertools.product(MODES, GAINS, HOLDS, TARGETS):
        case = Case(*combination, kind)
        messages = [message for applies, message in REFUSALS if applies(case)]
        if messages:
            with pytest.raises((ConfigError, HoldError)) as error:
                plan_of(case, parts)
            assert messages[0] in str(error.value), case
        else:
            rules = {tensor.rule.split()[0] for tensor in plan_of(case, parts).tensors}
            assert case.hold in rules, case
            num_held += 1
    assert num_held > 5


EXACT = [
    Case(mode, "top", "exact", target, kind)
    for mode, target, kind in itertools.product(MODES, TARGETS, KINDS)
    if not any(applies(Case(mode, "top", "exact", target, kind)) for applies, _ in REFUSALS)
]


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_what_is_legal_under_exact_keeps_its_promise(case: Case) -> None:
    parts = parts_of(case.kind)
    plan = plan_of(case, parts)
    optimizer = torch.optim.AdamW(
        (p for p in trained_parameters(parts) if any(p is q for q in held_by(plan))), lr=1e-2, weight_decay=0.1
    )
    handle = attach(plan, optimizer)
    train((text_loss if case.is_text else projector_loss)(parts), optimizer, steps=5)
    report = handle.audit()
    report.require_kept()
    for row in report.rows:
        if row.relative_update is not None:
            assert row.relative_update > 1e-3
        assert row.protected_norm is not None and row.protected_norm < 1e-6


def held_by(plan: HoldPlan) -> list[torch.Tensor]:
    named = plan.parameters()
    return [named[name] for name in plan.trained]


def test_the_share_of_a_coupling_that_holds_everything_is_refused() -> None:
    with pytest.raises(HoldError, match="no pair of directions free"):
        plan_for(parts_of("projector in full"), mode="coupling", hold="share", kept_fraction=1.0)


def test_the_rank_of_one_cannot_be_split() -> None:
    parts = trained_by_lora(PROJECTOR, rank_pattern={".*": 1})
    with pytest.raises(HoldError, match="which is 1; use rank 2 or more"):
        plan_for(parts, mode="coupling")
