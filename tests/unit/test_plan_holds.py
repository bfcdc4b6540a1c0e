"""plan_holds: which rule is legal where, no tensor without one, and plans that survive the disk."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from helpers.held_models import (
    plan_for,
    projector_loss,
    tiny_anchor,
    train,
    trained_by_lora,
    trained_in_full,
    trained_parameters,
)
from helpers.tiny_models import tiny_vlm
from textanchor.errors import ConfigError, HoldError
from textanchor.holds import Anchor, FilterConfig, HoldPlan, attach, plan_holds
from textanchor.vlm.parts import find_parts

PROJECTOR = "model.multi_modal_projector"
BOTH = [f"{PROJECTOR}.linear_1", f"{PROJECTOR}.linear_2"]


def rules(plan: HoldPlan) -> dict[str, str]:
    return {tensor.name: tensor.rule for tensor in plan.tensors}


@pytest.mark.parametrize(
    ("options", "inner", "last"),
    [
        ({"mode": "outputs"}, "frozen", "exact"),
        ({"mode": "manifold", "inner": "frozen"}, "frozen", "exact"),
        ({"mode": "outputs", "inner": "pullback"}, "exact", "exact"),
        ({"mode": "manifold", "hold": "decay", "inner": "pullback"}, "decay 100", "decay 100"),
        ({"mode": "inputs", "hold": "share"}, "share 0.1", "share 0.1"),
        ({"mode": "outputs", "hold": "penalty"}, "penalty 10", "penalty 10"),
    ],
)
def test_every_tensor_of_the_projector_has_a_rule(options: dict, inner: str, last: str) -> None:
    parts = trained_in_full("projector")
    plan = plan_for(parts, **options)
    expected = {f"{name}.{tensor}": rule for name, rule in zip(BOTH, (inner, last)) for tensor in ("weight", "bias")}  # noqa: B905
    assert rules(plan) == expected
    assert all(tensor.why for tensor in plan.tensors)


def test_both_parts_at_once_and_all_of_the_language_model_is_accounted_for() -> None:
    parts = trained_by_lora(modules_to_save=["lm_head"])
    plan = plan_holds(
        parts,
        tiny_anchor(),
        {
            "projector": FilterConfig(mode="inputs", kept_fraction=0.2),
            "language_model": FilterConfig(mode="inputs", kept_energy=0.5),
        },
    )
    named = rules(plan)
    assert set(named) == set(parts.parameters_of("projector")) | set(parts.parameters_of("language_model"))
    assert named["lm_head.weight"] == "frozen"
    assert named["model.language_model.layers.0.mlp.up_proj.lora_A.default.weight"] == "exact"
    assert named["model.language_model.layers.0.mlp.up_proj.lora_B.default.weight"] == "covered"
    assert named["model.language_model.layers.0.mlp.up_proj.weight"] == "frozen"
    by_name = {linear.name: linear for linear in plan.linears}
    layer = "model.language_model.layers.1.self_attn"
    assert by_name[f"{layer}.q_proj"].subspace is by_name[f"{layer}.k_proj"].subspace  # one input, one filter
    assert by_name[f"{layer}.q_proj"].subspace is not by_name[f"{layer}.o_proj"].subspace
    plan.freeze()
    assert not parts.parameters_of("language_model")["lm_head.weight"].requires_grad


def test_a_bias_is_held_with_its_weight_and_left_out_where_it_does_not_train() -> None:
    with_bias = plan_for(trained_in_full("projector"), mode="inputs")
    parts = trained_in_full("projector")
    parts.parameters_of("projector")[f"{BOTH[0]}.bias"].requires_grad_(False)
    without = plan_for(parts, mode="inputs")
    assert [linear.subspace.width for linear in with_bias.linears] == [25, 33]
    assert [linear.subspace.width for linear in without.linears] == [24, 33]
    assert rules(without)[f"{BOTH[0]}.bias"] == "frozen"
    parts.parameters_of("projector")[f"{BOTH[1]}.weight"].requires_grad_(False)
    parts.parameters_of("projector")[f"{BOTH[1]}.bias"].requires_grad_(True)
    assert rules(plan_for(parts, mode="inputs"))[f"{BOTH[1]}.bias"] == "frozen"
    lora = plan_for(trained_by_lora(BOTH), mode="inputs")
    assert [linear.subspace.width for linear in lora.linears] == [24, 32]


def test_norms_and_bare_tensors_around_the_projector_are_frozen() -> None:
    model = tiny_vlm("vipllava").requires_grad_(False)
    parts = find_parts(model)
    for parameter in parts.parameters_of("projector").values():
        parameter.requires_grad_(True)
    states = {name: torch.randn(300, linear.in_features) for name, linear in parts.projector_linears().items()}
    moments = {f"inputs/{name}": Anchor.from_states(x).moments["states"] for name, x in states.items()}
    plan = plan_holds(parts, Anchor(moments), FilterConfig(mode="inputs", num_kept=4))
    frozen = {name: tensor.why for tensor in plan.tensors if (name := tensor.name) and tensor.rule == "frozen"}
    assert set(frozen) == {f"{PROJECTOR}.projector_layernorm.{name}" for name in ("weight", "bias")}
    assert "LayerNorm" in frozen[f"{PROJECTOR}.projector_layernorm.weight"]


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        ("language_model", {"mode": "outputs", "inner": "pullback"}, "legal for the projector only"),
        ("language_model", {"mode": "outputs", "hold": "penalty"}, "legal for the projector"),
        ("projector", {"mode": "inputs", "hold": "penalty"}, "'outputs' or 'manifold'"),
        ("projector", {"mode": "outputs", "num_kept": 40}, "span only"),
        (
            "projector",
            {"mode": "outputs", "hold": "share", "gains": "ridge", "kept_fraction": 1.0},
            "no direction free",
        ),
    ],
)
def test_what_is_not_legal_is_refused_by_name(part: str, options: dict, message: str) -> None:
    with pytest.raises(HoldError, match=message):
        plan_for(trained_in_full(part), part, **options)


def test_parts_anchors_and_linears_that_do_not_fit_are_refused() -> None:
    parts = trained_in_full("projector")
    config = FilterConfig(mode="inputs", num_kept=4)
    with pytest.raises(ConfigError, match="vision_tower"):
        plan_holds(parts, tiny_anchor(), {"vision_tower": config})
    with pytest.raises(HoldError, match="nothing of the projector"):
        plan_holds(trained_in_full("language_model"), tiny_anchor(), config)
    with pytest.raises(HoldError, match="no moments of"):
        plan_holds(parts, Anchor.from_states(torch.randn(50, 24)), config)
    anchor = Anchor.from_states(torch.randn(50, 24))
    linear = nn.Linear(24, 8)
    with pytest.raises(HoldError, match="is 24 wide"):
        anchor.plan(linear, "out", num_kept=3)
    with pytest.raises(HoldError, match="not legal for"):
        anchor.plan(linear, "in", mode="outputs", num_kept=3)
    with pytest.raises(HoldError, match=r"Anchor\.plan is for"):
        tiny_anchor().plan(linear, "in", num_kept=3)
    with pytest.raises(HoldError, match="expected one linear"):
        anchor.plan(nn.ReLU(), "in", num_kept=3)
    with pytest.raises(ConfigError, match="num_kep"):
        anchor.plan(linear, "in", num_kep=3)


@pytest.mark.parametrize("also", [(), BOTH], ids=["apart", "overlapping targets"])
def test_lora_and_full_weights_resolve_to_the_names_of_the_plain_model(also: tuple[str, ...]) -> None:
    parts = trained_in_full("projector")
    model = get_peft_model(
        parts.model,  # pyright: ignore[reportArgumentType]
        LoraConfig(r=2, target_modules=[*parts.text_linears(), *also], modules_to_save=["multi_modal_projector"]),
    )
    wrapped = find_parts(model)
    plan = plan_for(wrapped, mode="inputs")
    assert set(rules(plan)) == {f"{name}.{tensor}" for name in BOTH for tensor in ("weight", "bias")}
    optimizer = torch.optim.AdamW(trained_parameters(wrapped), lr=1e-2)
    handle = attach(plan, optimizer)
    train(projector_loss(wrapped), optimizer, steps=5)
    handle.audit().require_kept()
    assert all(row.relative_update > 1e-3 for row in handle.audit().rows)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "outputs"},
        {"mode": "manifold", "hold": "share"},
        {"mode": "inputs", "hold": "decay", "gains": "power"},
        {"mode": "outputs", "hold": "penalty"},
    ],
)
def test_a_plan_survives_the_disk(options: dict, tmp_path) -> None:
    parts = trained_in_full("projector")
    plan = plan_for(parts, **options)
    plan.save(tmp_path / "plan")
    loaded = HoldPlan.load(tmp_path / "plan", parts.model)
    assert loaded.fingerprint == plan.fingerprint
    assert loaded.base_hash == plan.base_hash
    assert str(loaded) == str(plan)
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
    attach(loaded, optimizer)
    train(projector_loss(parts), optimizer, steps=3)
    assert [vars(row) for row in loaded.audit().rows] == [vars(row) for row in plan.audit().rows]


def test_damaged_and_foreign_folders_are_refused(tmp_path) -> None:
    plan_for(trained_in_full("projector")).save(tmp_path / "plan")
    with pytest.raises(HoldError, match=r"anchor\.json"):
        Anchor.load(tmp_path / "plan")
    with pytest.raises(HoldError, match="expected a folder"):
        HoldPlan.load(tmp_path / "nothing")
    (tmp_path / "plan" / "plan.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(HoldError, match="cannot be read"):
        HoldPlan.load(tmp_path / "plan")
    (tmp_path / "plan" / "plan.json").write_text(json.dumps({"kind": "plan", "format": 0}))
    with pytest.raises(HoldError, match="not as this version of textanchor wrote it"):
        HoldPlan.load(tmp_path / "plan")


def test_the_table_merges_layers_and_shows_ranges() -> None:
    parts = trained_by_lora()
    table = str(plan_for(parts, "language_model", mode="inputs", kept_energy=0.6))
    (row,) = [line for line in table.splitlines() if "mlp.down_proj.lora_A" in line]
    assert "model.language_model.layers.*.mlp.down_proj.lora_A.default.weight" in row
    assert "of 48 directions" in row
    assert "(others)" in table and len(table.splitlines()) < 20
