"""Mode coupling against its dense formula P_out Delta P_in, and target remove against (I - P) W0."""

import pytest
import torch
from torch import Tensor

from helpers.held_models import (
    image_features,
    noise_images,
    plan_for,
    probe_of,
    projector_loss,
    start_weights,
    train,
    trained_by_lora,
    trained_in_full,
    trained_parameters,
)
from textanchor.errors import HoldError
from textanchor.holds import HoldPlan, attach
from textanchor.holds.bound import bind
from textanchor.spectral import Subspace

LAST = "model.multi_modal_projector.linear_2"


def dense(subspace: Subspace) -> Tensor:
    """The filter as a matrix (D, D)."""
    return subspace.protected(torch.eye(subspace.width, dtype=torch.float64))


def change_of(parts, start: dict[str, Tensor]) -> Tensor:
    """[W | b] - [W0 | b0] of the last linear, in float64."""
    moved = {name: parameter.detach().double() - start[name] for name, parameter in parts.model.named_parameters()}
    return torch.cat([moved[f"{LAST}.weight"], moved[f"{LAST}.bias"][:, None]], dim=1)


def trained(hold: str, **options):
    parts = trained_in_full("projector")
    start = start_weights(parts)
    plan = plan_for(parts, mode="coupling", hold=hold, **options)
    plan.freeze()
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
    handle = attach(plan, optimizer)
    return parts, start, plan.linears[0], handle, optimizer


@pytest.mark.parametrize("num_kept", [8, 30])
def test_exact_takes_away_the_coupling_and_nothing_else(num_kept: int) -> None:
    parts, start, linear, handle, _ = trained("exact", num_kept=num_kept)
    p_out, p_in = dense(linear.across), dense(linear.subspace)
    assert round(float(p_out.trace())) == round(float(p_in.trace())) == num_kept
    change = 0.1 * torch.randn(32, 33, dtype=torch.float64)
    with torch.no_grad():
        parts.module(LAST).weight.add_(change[:, :-1])
        parts.module(LAST).bias.add_(change[:, -1])
        change = change_of(parts, start)
        handle._bound[0].apply(lr=1e-2)
    torch.testing.assert_close(change_of(parts, start), change - p_out @ change @ p_in, atol=1e-6, rtol=0)
    (row,) = handle.audit().rows
    assert row.weight_leak == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("gains", ["top", "ridge", "power"])
def test_decay_damps_each_pair_by_the_product_of_its_gains(gains: str) -> None:
    parts, start, linear, handle, _ = trained("decay", gains=gains)
    change = 0.1 * torch.randn(32, 33, dtype=torch.float64)
    with torch.no_grad():
        parts.module(LAST).weight.add_(change[:, :-1])
        parts.module(LAST).bias.add_(change[:, -1])
        change = change_of(parts, start)
        handle._bound[0].damp(0.3)
    (out_values, out_vectors), (in_values, in_vectors) = (
        torch.linalg.eigh(dense(subspace)) for subspace in (linear.across, linear.subspace)
    )
    damping = 0.3 ** torch.outer(out_values, in_values)
    expected = out_vectors @ (damping * (out_vectors.T @ change @ in_vectors)) @ in_vectors.T
    torch.testing.assert_close(change_of(parts, start), expected, atol=1e-6, rtol=0)


def test_share_caps_the_coupling_by_its_isotropic_part_of_the_rest() -> None:
    parts, _, linear, handle, optimizer = trained("share", share=0.2, num_kept=12)
    train(projector_loss(parts), optimizer, steps=20)
    (row,) = handle.audit().rows
    num_pairs, num_held = 32 * 33, len(linear.across.gains_K) * len(linear.subspace.gains_K)
    free = (row.change_norm**2 - row.protected_norm**2) ** 0.5
    assert row.protected_norm == pytest.approx(0.2 * (num_held / (num_pairs - num_held)) ** 0.5 * free, rel=1e-3)


def test_what_is_mapped_from_held_inputs_to_held_outputs_stays_while_both_move() -> None:
    parts, start, linear, handle, optimizer = trained("exact", num_kept=10)
    probe = probe_of(parts)
    train(projector_loss(parts), optimizer, steps=30)
    change, p_out, p_in = change_of(parts, start), dense(linear.across), dense(linear.subspace)
    assert (p_out @ change @ p_in).norm() < 1e-5 * change.norm()
    assert (p_out @ change).norm() > 0.1 * change.norm() < 10 * (change @ p_in).norm()
    (row,) = handle.audit(probe=probe).rows
    assert row.function_leak is not None and row.function_leak < 1e-10


def test_lora_splits_its_rank() -> None:
    parts = trained_by_lora([LAST])
    plan = plan_for(parts, mode="coupling")
    (linear,) = plan.linears
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2, weight_decay=0.1)
    handle = attach(plan, optimizer)
    train(projector_loss(parts), optimizer, steps=20)
    a_rI, b_Or = (plan.parameters()[name].detach().double() for name in linear.tensors)
    p_out, p_in = dense(linear.across), dense(linear.subspace)
    assert (p_out @ b_Or[:, :2]).norm() < 1e-6 < 0.01 < (p_out @ b_Or[:, 2:]).norm()
    assert (a_rI[2:] @ p_in).norm() < 1e-6 < 0.01 < (a_rI[:2] @ p_in).norm()
    (row,) = handle.audit().rows
    assert row.is_kept and row.weight_leak < 1e-6 < 1e-2 < row.relative_update
    change = linear.scaling * b_Or @ a_rI
    assert row.change_norm == pytest.approx(float(change.norm()), rel=1e-6)
    assert [tensor.why for tensor in plan.tensors if tensor.rule == "exact"] == [
        "coupling: 8 of 32 to 8 of 32 directions; second half of the rank",
        "coupling: 8 of 32 to 8 of 32 directions; first half of the rank",
    ]


def test_the_audit_of_a_split_lora_sees_a_broken_promise() -> None:
    parts = trained_by_lora([LAST])
    plan = plan_for(parts, mode="coupling")
    bound = bind(plan.linears[0], plan.parameters())
    with torch.no_grad():
        for tensor in bound.tensors:
            tensor.normal_()
    a_rI, b_Or = (tensor.detach().double() for tensor in bound.tensors)
    expected = dense(bound.across) @ b_Or @ a_rI @ dense(bound.subspace) * plan.linears[0].scaling
    assert bound.protected_norm() == pytest.approx(float(expected.norm()), rel=1e-9)


@pytest.mark.parametrize("mode", ["outputs", "manifold", "coupling"])
@pytest.mark.parametrize("hold", ["exact", "share", "decay"])
def test_remove_folds_the_directions_out_of_the_weight_and_counts_from_there(mode: str, hold: str) -> None:
    parts = trained_in_full("projector")
    start = parts.module(LAST)
    w0 = torch.cat([start.weight.detach().double(), start.bias.detach().double()[:, None]], dim=1)
    plan = plan_for(parts, mode=mode, hold=hold, target="remove")
    plan.freeze()
    (linear,) = plan.linears
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
    handle = attach(plan, optimizer)
    p_out = dense(linear.across or linear.subspace)
    p_in = dense(linear.subspace) if linear.across else torch.eye(33, dtype=torch.float64)
    now = torch.cat([start.weight.detach().double(), start.bias.detach().double()[:, None]], dim=1)
    torch.testing.assert_close(now, w0 - p_out @ w0 @ p_in, atol=1e-6, rtol=0)
    assert (now - w0).norm() > 0.1
    assert handle.audit().rows[0].relative_update == pytest.approx(0, abs=1e-6)
    train(projector_loss(parts), optimizer, steps=10)
    handle.audit().require_kept()
    now = torch.cat([start.weight.detach().double(), start.bias.detach().double()[:, None]], dim=1)
    if hold == "exact":
        assert (p_out @ now @ p_in).norm() < 1e-5
    with pytest.raises(HoldError, match="reference='base'"):
        attach(plan, optimizer, reference="start")


def test_after_remove_the_projector_writes_nothing_into_the_text_directions() -> None:
    parts = trained_in_full("projector")
    plan, probe = plan_for(parts, target="remove"), probe_of(parts)
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
    handle = attach(plan, optimizer)
    train(projector_loss(parts), optimizer, steps=10)
    written = image_features(parts, noise_images(3, seed=5)).detach().double()
    assert plan.linears[0].subspace.protected(written).norm() < 1e-5 * written.norm()
    report = handle.audit(probe=probe)
    assert report.projector.leak < 1e-10 < report.projector.relative_change


def test_a_penalty_can_remove_too() -> None:
    parts = trained_in_full("projector")
    plan = plan_for(parts, hold="penalty", target="remove", strength=100.0)
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
    handle = attach(plan, optimizer)
    projector, states = parts.module(parts.projector[0]), torch.randn(64, 24)

    def written_norm() -> float:
        with torch.no_grad():
            written = projector(states).double()
        return float(plan.projector.subspace.protected(written).norm() / written.norm())

    before = written_norm()
    for _ in range(60):
        optimizer.zero_grad()
        projector(states)
        handle.penalty().backward()
        optimizer.step()
    assert written_norm() < before / 3


@pytest.mark.parametrize("hold", ["exact", "share"])
def test_a_plan_of_pairs_survives_the_disk(hold: str, tmp_path) -> None:
    parts = trained_in_full("projector")
    plan = plan_for(parts, mode="coupling", hold=hold)
    plan.save(tmp_path / "plan")
    loaded = HoldPlan.load(tmp_path / "plan", parts.model)
    assert loaded.fingerprint == plan.fingerprint and str(loaded) == str(plan)
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
    attach(loaded, optimizer)
    train(projector_loss(parts), optimizer, steps=3)
    assert [vars(row) for row in loaded.audit().rows] == [vars(row) for row in plan.audit().rows]


def test_the_cap_of_the_norm_shrinks_the_whole_change() -> None:
    for parts in (trained_in_full("projector"), trained_by_lora([LAST])):
        plan = plan_for(parts, norm_cap=0.05)
        optimizer = torch.optim.AdamW(trained_parameters(parts), lr=3e-2)
        handle = attach(plan, optimizer)
        train(projector_loss(parts), optimizer, steps=10)
        (row,) = handle.audit().rows
        assert row.relative_update == pytest.approx(0.05, rel=1e-3)
        assert row.is_kept


RESUMED = {
    "pairs": (False, {"mode": "coupling"}),
    "split lora": (True, {"mode": "coupling"}),
    "removed": (False, {"mode": "outputs", "target": "remove"}),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_goes_on_bit_for_bit(case: str) -> None:
    is_lora, options = RESUMED[case]
    ends = []
    for is_cut in (False, True):
        torch.manual_seed(0)  # LoRA starts at random
        parts = trained_by_lora([LAST]) if is_lora else trained_in_full("projector")
        plan = plan_for(parts, **options)
        plan.freeze()
        optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
        handle = attach(plan, optimizer)
        train(projector_loss(parts), optimizer, steps=3)
        if is_cut:
            handle.remove()
            handle = attach(plan, optimizer, state=handle.state_dict())
        train(projector_loss(parts), optimizer, steps=3)
        handle.audit().require_kept()
        ends.append([parameter.detach() for parameter in trained_parameters(parts)])
    assert all(torch.equal(whole, cut) for whole, cut in zip(*ends, strict=True))


def test_a_coupling_can_count_from_the_start_of_a_run() -> None:
    parts, _, linear, handle, optimizer = trained("exact")
    handle.remove()
    with torch.no_grad():
        parts.module(LAST).weight.add_(torch.randn(32, 32))
    start = start_weights(parts)
    attach(handle.plan, optimizer, reference="start")
    train(projector_loss(parts), optimizer, steps=5)
    change = change_of(parts, start)
    coupled = dense(linear.across) @ change @ dense(linear.subspace)
    assert coupled.norm() < 1e-5 < 0.1 < change.norm()
