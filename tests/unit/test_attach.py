"""attach: where the hook sits, when it acts, what it refuses, and that a resumed run goes on as if never stopped."""

import copy
import io

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from helpers.held_models import (
    plan_for,
    probe_of,
    projector_loss,
    start_weights,
    text_loss,
    train,
    trained_by_lora,
    trained_in_full,
    trained_parameters,
)
from textanchor.errors import HoldError
from textanchor.holds import Anchor, HoldPlan, attach
from textanchor.vlm.parts import find_parts

RULES = {
    "exact": {"mode": "outputs", "hold": "exact"},
    "share": {"mode": "outputs", "hold": "share"},
    "decay": {"mode": "inputs", "hold": "decay"},
}


def states_of(width: int = 12) -> torch.Tensor:
    return torch.randn(200, width) @ torch.randn(width, width) + 1


def held_linear(rule: str, **options) -> tuple[nn.Linear, HoldPlan]:
    linear = nn.Linear(12, 12)
    config = RULES[rule] | options
    side = "in" if config["mode"] == "inputs" else "out"
    return linear, Anchor.from_states(states_of()).plan(linear, side, num_kept=4, **config)


def drift(linear: nn.Module):
    inputs, targets = torch.randn(64, 12), 5 * torch.randn(64, 12)
    return lambda: (linear(inputs) - targets).square().mean()


@pytest.mark.parametrize("rule", RULES)
def test_a_fused_step_that_the_scaler_skips_changes_nothing(rule: str) -> None:
    linear, plan = held_linear(rule)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-2, fused=True)
    attach(plan, optimizer)
    loss = drift(linear)
    train(loss, optimizer, steps=3)
    before = copy.deepcopy(linear.state_dict())
    calls = []
    optimizer.register_step_post_hook(lambda *args: calls.append(1))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    optimizer.zero_grad()
    scaler.scale(loss() * torch.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    assert calls, "the hook of this optimizer does not fire on a skipped step, so this shows nothing"
    for name, value in linear.state_dict().items():
        assert torch.equal(value, before[name])


def test_decay_would_act_twice_on_a_step_that_did_not_happen() -> None:
    """What the test above guards against: the rule on an unmoved weight is no identity."""
    linear, plan = held_linear("decay")
    optimizer = torch.optim.SGD(linear.parameters(), lr=1e-2)
    handle = attach(plan, optimizer)
    train(drift(linear), optimizer, steps=3)
    before = linear.weight.detach().clone()
    handle._bound[0].apply(lr=1e-2)
    assert not torch.equal(linear.weight, before)


@pytest.mark.parametrize("rule", RULES)
def test_what_has_no_gradient_or_a_rate_of_zero_is_left_bit_for_bit(rule: str) -> None:
    linear, plan = held_linear(rule)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-2, weight_decay=0.0)
    attach(plan, optimizer)
    train(drift(linear), optimizer, steps=3)
    before = copy.deepcopy(linear.state_dict())
    optimizer.zero_grad()
    optimizer.step()
    drift(linear)().backward()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in linear.state_dict().items())


def test_a_first_step_at_rate_zero_may_change_the_sign_of_zeros() -> None:
    """AdamW adds 0.0 to every weight in a warmup's first step, and -0.0 + 0.0 is 0.0: that is no stray step."""
    linear, plan = held_linear("exact")
    with torch.no_grad():
        linear.weight[::2] = -0.0
    before = linear.weight.detach().clone().view(torch.int32)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.0)
    handle = attach(plan, optimizer)
    loss = drift(linear)
    train(loss, optimizer, steps=1)
    assert not torch.equal(linear.weight.detach().view(torch.int32), before), "the case is not met"
    optimizer.param_groups[0]["lr"] = 1e-2
    train(loss, optimizer, steps=3)
    handle.audit().require_kept()


@pytest.mark.parametrize("rule", RULES)
def test_a_killed_run_goes_on_bit_for_bit(rule: str) -> None:
    for parts_of, loss_of, options in (
        (lambda: trained_in_full("projector"), projector_loss, RULES[rule]),
        (lambda: trained_by_lora(["model.multi_modal_projector.linear_2"]), projector_loss, RULES[rule]),
    ):
        parts = parts_of()
        weights = start_weights(parts)
        optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-3)
        plan = plan_for(parts, **options)
        handle = attach(plan, optimizer)
        train(loss_of(parts), optimizer, steps=4)
        checkpoint = io.BytesIO()
        torch.save([parts.model.state_dict(), optimizer.state_dict(), handle.state_dict()], checkpoint)
        checkpoint.seek(0)
        train(loss_of(parts), optimizer, steps=4)

        resumed = parts_of()
        resumed.model.load_state_dict({**resumed.model.state_dict(), **weights})
        again = plan_for(resumed, **options)
        assert again.fingerprint == plan.fingerprint and again.base_hash == plan.base_hash
        model_state, optimizer_state, holds_state = torch.load(checkpoint, weights_only=True)
        resumed.model.load_state_dict(model_state)
        optimizer = torch.optim.AdamW(trained_parameters(resumed), lr=1e-3)
        attach(again, optimizer, state=holds_state)
        optimizer.load_state_dict(optimizer_state)
        train(loss_of(resumed), optimizer, steps=4)
        for name, value in resumed.model.state_dict().items():
            assert torch.equal(value, parts.model.state_dict()[name]), name


def test_a_state_of_another_base_plan_or_reference_is_refused() -> None:
    parts = trained_in_full("projector")
    optimizer = torch.optim.SGD(trained_parameters(parts), lr=1e-2)
    state = attach(plan_for(parts), optimizer).state_dict()
    other_plan = plan_for(parts, num_kept=7)
    with pytest.raises(HoldError, match="another plan"):
        attach(other_plan, optimizer, state=state)
    with pytest.raises(HoldError, match="another reference"):
        attach(plan_for(parts), optimizer, state=state, reference="start")
    for parameter in parts.projector_linears()["model.multi_modal_projector.linear_2"].parameters():
        parameter.requires_grad_(True).data.add_(0.01)
    with pytest.raises(HoldError, match="another base"):
        attach(plan_for(parts), optimizer, state=state)
    assert not optimizer._optimizer_step_post_hooks or len(optimizer._optimizer_step_post_hooks) == 1


def test_reference_start_counts_from_the_weights_of_now() -> None:
    linear, plan = held_linear("exact")
    with torch.no_grad():
        linear.weight.add_(torch.randn(12, 12))
    moved = linear.weight.detach().clone()
    optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-2)
    handle = attach(plan, optimizer, reference="start")
    train(drift(linear), optimizer, steps=5)
    change = (linear.weight.detach() - moved).T.double()
    assert change.norm() > 0.1
    assert plan.linears[0].subspace.protected(change).norm() < 1e-6 * change.norm() + 1e-6
    assert handle.audit().rows[0].weight_leak < 1e-5
    assert plan.audit().rows[0].weight_leak > 0.1  # from the base that the plan was made on, it moved everywhere
    state = handle.state_dict()
    handle.remove()
    again = attach(plan, optimizer, reference="start", state=state)
    assert again.audit().rows[0].weight_leak == pytest.approx(handle.audit().rows[0].weight_leak)
    # "base" brings the protected part back to the base
    attach(plan, optimizer)
    train(drift(linear), optimizer, steps=1)
    assert plan.audit().rows[0].weight_leak < 1e-5


def test_after_remove_nothing_is_held() -> None:
    linear, plan = held_linear("exact")
    optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-2)
    handle = attach(plan, optimizer)
    handle.remove()
    train(drift(linear), optimizer, steps=5)
    assert handle.audit().rows[0].weight_leak > 0.1


def test_the_hook_sits_on_the_optimizer_inside_accelerate() -> None:
    from accelerate import Accelerator

    linear, plan = held_linear("exact")
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(linear, torch.optim.AdamW(linear.parameters(), lr=1e-2))
    handle = attach(plan, optimizer, model)
    loss = drift(model)
    for _ in range(10):
        optimizer.zero_grad()
        accelerator.backward(loss())
        optimizer.step()
    handle.audit().require_kept()
    assert handle.audit().rows[0].relative_update > 1e-3


def test_names_are_found_inside_a_data_parallel_wrapper() -> None:
    linear, plan = held_linear("exact")
    wrapped = nn.DataParallel(linear)
    handle = attach(plan, torch.optim.AdamW(wrapped.parameters(), lr=1e-2), wrapped)
    assert handle.audit().rows[0].weight_leak == 0.0


def test_what_cannot_be_kept_is_refused() -> None:
    linear, plan = held_linear("exact")
    with pytest.raises(HoldError, match="not in the optimizer"):
        attach(plan, torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))
    with pytest.raises(HoldError, match="needs a torch optimizer"):
        attach(plan, object())
    low = nn.Linear(12, 12).bfloat16()
    low_plan = Anchor.from_states(states_of()).plan(low, "out", num_kept=4)
    with pytest.raises(HoldError, match="bfloat16"):
        attach(low_plan, torch.optim.SGD(low.parameters(), lr=0.1))
    loaded = HoldPlan(tensors=plan.tensors, linears=plan.linears, paths=plan.paths)
    with pytest.raises(HoldError, match="without a model"):
        attach(loaded, torch.optim.SGD(linear.parameters(), lr=0.1))
    with pytest.raises(HoldError, match="which the plan names"):
        attach(plan, torch.optim.SGD(linear.parameters(), lr=0.1), nn.Linear(12, 12, bias=False))


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_lora_that_does_not_start_at_zero_is_refused(init: str) -> None:
    parts = trained_by_lora(["model.multi_modal_projector.linear_2"], init_lora_weights=init)
    with pytest.raises(HoldError, match="does not start at zero"):
        attach(plan_for(parts), torch.optim.SGD(trained_parameters(parts), lr=0.1))


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}], ids=["dora", "lora_bias"])
def test_lora_that_trains_more_than_a_and_b_is_refused(options: dict) -> None:
    with pytest.raises(HoldError, match="exactly lora_A and lora_B"):
        plan_for(trained_by_lora(["model.multi_modal_projector.linear_2"], **options))


def test_a_lora_layer_alone_can_be_held() -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(12, 12)), LoraConfig(r=3, target_modules=["0"]))  # pyright: ignore
    layer = model.base_model.model[0]
    layer.base_layer.requires_grad_(False)
    plan = Anchor.from_states(states_of()).plan(layer, "in", num_kept=4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    handle = attach(plan, optimizer)
    train(drift(model), optimizer, steps=10)
    (row,) = handle.audit().rows
    assert row.weight_leak < 1e-6 < row.relative_update
    assert row.bound is not None and row.is_kept


def test_lora_inputs_are_free_of_held_directions_from_the_first_forward_pass_on() -> None:
    parts = trained_by_lora()
    plan = plan_for(parts, "language_model", mode="inputs")
    attach(plan, torch.optim.SGD(trained_parameters(parts), lr=0.1))
    named = plan.parameters()
    for linear in plan.linears:
        a_rI = named[linear.tensors[0]].detach().double()
        assert a_rI.norm() > 0.1
        assert linear.subspace.protected(a_rI).norm() < 1e-6 * a_rI.norm()
        assert not named[linear.tensors[1]].any()


def test_weight_decay_is_taken_off_tensors_that_it_would_pull() -> None:
    parts = trained_in_full("projector")
    other = nn.Linear(3, 3)
    plan = plan_for(parts, mode="inputs", hold="share")
    held = trained_parameters(parts)
    mixed = torch.optim.AdamW([*held, *other.parameters()], lr=1e-3, weight_decay=0.1)
    attach(plan, mixed)
    decays = {id(p): group["weight_decay"] for group in mixed.param_groups for p in group["params"]}
    assert {decays[id(p)] for p in held} == {0.0}
    assert {decays[id(p)] for p in other.parameters()} == {0.1}
    own = torch.optim.AdamW([{"params": held}, {"params": other.parameters()}], lr=1e-3, weight_decay=0.1)
    torch.optim.lr_scheduler.LinearLR(own)
    attach(plan, own)
    assert [group["weight_decay"] for group in own.param_groups] == [0.0, 0.1]
    scheduled = torch.optim.AdamW([*held, *other.parameters()], lr=1e-3, weight_decay=0.1)
    torch.optim.lr_scheduler.LinearLR(scheduled)
    with pytest.raises(HoldError, match="weight_decay=0"):
        attach(plan, scheduled)
    exact = torch.optim.AdamW([*held, *other.parameters()], lr=1e-3, weight_decay=0.1)
    attach(plan_for(parts, mode="inputs"), exact)
    assert [group["weight_decay"] for group in exact.param_groups] == [0.1]


def test_decay_follows_the_learning_rate_of_each_step() -> None:
    linear, plan = held_linear("decay", strength=2.0, mode="outputs")
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.5)
    attach(plan, optimizer)
    base = linear.weight.detach().clone().double()
    rms = float(base.square().mean().sqrt())
    subspace, expected = plan.linears[0].subspace, torch.zeros(12, 12, dtype=torch.float64)
    loss = drift(linear)
    for lr in (0.5, 0.1):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss().backward()
        expected = expected - lr * linear.weight.grad.double().T
        expected = expected - (1 - torch.tensor(-lr * 2.0 / rms).exp()) * subspace.protected(expected)
        optimizer.step()
        torch.testing.assert_close((linear.weight.detach().double() - base).T, expected, atol=1e-5, rtol=1e-4)


def test_decay_refuses_optimizers_whose_lr_is_not_the_step() -> None:
    linear, plan = held_linear("decay")
    for optimizer in (torch.optim.Adafactor(linear.parameters()), torch.optim.LBFGS(linear.parameters())):
        with pytest.raises(HoldError, match="not the size of its steps"):
            attach(plan, optimizer)
    from transformers.optimization import Adafactor

    with pytest.raises(HoldError, match="not the size of its steps"):
        attach(plan, Adafactor(linear.parameters(), relative_step=True, scale_parameter=False, lr=None))


@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("mode", ["outputs", "manifold", "inputs"])
def test_share_caps_the_protected_part(mode: str, is_lora: bool) -> None:
    name = "model.multi_modal_projector.linear_2"
    parts = trained_by_lora([name]) if is_lora else trained_in_full("projector")
    plan = plan_for(parts, mode=mode, hold="share", share=0.2)
    plan.freeze()
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
    handle = attach(plan, optimizer)
    train(projector_loss(parts), optimizer, steps=20)
    for row, linear in zip(handle.audit().rows, plan.linears, strict=True):
        num_protected = linear.subspace.num_protected
        isotropic = (num_protected / (linear.subspace.width - num_protected)) ** 0.5
        free = (row.change_norm**2 - row.protected_norm**2) ** 0.5
        assert row.protected_norm == pytest.approx(0.2 * isotropic * free, rel=1e-3)


def test_share_holds_language_model_lora_too() -> None:
    parts = trained_by_lora()
    plan = plan_for(parts, "language_model", mode="inputs", kept_energy=0.7, hold="share", share=0.05)
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
    handle = attach(plan, optimizer)
    train(text_loss(parts), optimizer, steps=10)
    assert all(0 < row.weight_leak < 0.1 for row in handle.audit().rows)


def test_a_tensor_that_trains_without_a_rule_is_refused() -> None:
    parts = trained_in_full("projector")
    plan = plan_for(parts)
    config = LoraConfig(r=2, target_modules=["model.multi_modal_projector.linear_1"])
    wrapped = find_parts(get_peft_model(parts.model, config))  # pyright: ignore
    with pytest.raises(HoldError, match="would train without a rule"):
        attach(plan, torch.optim.SGD(wrapped.model.parameters(), lr=0.1), wrapped.model)


def test_audit_names_what_broke_the_promise_and_what_the_saved_type_leaks() -> None:
    parts = trained_in_full("projector")
    plan, probe = plan_for(parts), probe_of(parts)
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-4)
    handle = attach(plan, optimizer)
    train(projector_loss(parts), optimizer, steps=5)
    report = handle.audit(probe=probe, saved_dtype=torch.bfloat16)
    (row,) = report.rows
    assert row.is_kept and row.saved_leak > 100 * row.weight_leak
    assert row.norm_ratio == pytest.approx(1, abs=0.1)
    assert set(report.to_dict()["tensors"][0]) >= {"name", "rule", "weight_leak", "function_leak", "relative_update"}
    assert "linear_2" in str(report) and "projector on the probe" in str(report)
    with torch.no_grad():
        parts.module("model.multi_modal_projector.linear_2").weight.add_(0.01)
    with pytest.raises(HoldError, match=r"linear_2: .* lies in protected directions"):
        handle.audit().require_kept()
