"""Where directions come from: gathered states against direct computation, controls against what they promise."""

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.held_models import (
    image_features,
    letter_texts,
    noise_images,
    plan_for,
    projector_loss,
    tiny_anchor,
    tiny_model,
    train,
    trained_in_full,
    trained_parameters,
)
from helpers.tiny_chat import tiny_chat_model
from textanchor.errors import ConfigError, DataError, HoldError, ModelError
from textanchor.holds import Anchor, FilterConfig, attach, fit_anchor, plan_holds
from textanchor.holds.gather import ANSWER_SEED
from textanchor.spectral import MomentsStream, Subspace, output_basis
from textanchor.vlm.parts import VLMParts, find_parts

GATHERED = ("hidden:1", "text_sensitivity", "reference_sensitivity", "visual")
TEXTS, IMAGES = letter_texts(6, length=20), noise_images(5)
QUESTIONS = ["Is there a red circle in the image?", "What shape is in the top left?", "yes", "no?", "Where is it?"]


@cache
def anchor() -> Anchor:
    """Anchor with every basis."""
    processor = tiny_chat_model("llava")[1]
    return fit_anchor(
        tiny_model(), processor, TEXTS, IMAGES, linears=[], bases=GATHERED, questions=QUESTIONS, batch_size=2
    )


def token_rows(processor: Any) -> list[list[int]]:
    return [processor.tokenizer(text)["input_ids"] for text in TEXTS]


def test_hidden_states_are_what_enters_the_layer() -> None:
    model, processor = tiny_model(), tiny_chat_model("llava")[1]
    expected = MomentsStream(32)
    for row in token_rows(processor):
        seen: list[Tensor] = []
        handle = model.model.language_model.layers[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))  # noqa: B023
        with torch.no_grad():
            model(input_ids=torch.tensor([row]))
        handle.remove()
        is_sink = torch.tensor([i == 0 or token == processor.tokenizer.bos_token_id for i, token in enumerate(row)])
        expected.add(seen[0][0], is_sink_N=is_sink)
    torch.testing.assert_close(anchor()["hidden:1"].second_EE, expected.moments().second_EE, atol=1e-6, rtol=1e-5)


def test_text_sensitivity_is_the_gradient_of_the_loss_at_each_embedded_token() -> None:
    model, processor = tiny_model(), tiny_chat_model("llava")[1]
    expected = torch.zeros(32, 32, dtype=torch.float64)
    count = 0
    for row in token_rows(processor):
        ids = torch.tensor([row])
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_(True)
        logits = model.lm_head(model.model.language_model(inputs_embeds=embedded).last_hidden_state)
        F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").backward()
        gradients = embedded.grad[0].double()  # pyright: ignore
        counted = [i for i, token in enumerate(row) if i > 0 and token != processor.tokenizer.bos_token_id]
        counted = [i for i in counted if gradients[i].norm() > 0]
        expected += gradients[counted].T @ gradients[counted]
        count += len(counted)
    moments = anchor()["text_sensitivity"]
    assert moments.count == count and not moments.unit_norm
    torch.testing.assert_close(moments.second_DD, expected / count, atol=1e-7, rtol=1e-4)


def test_reference_sensitivity_sums_to_the_gradients_of_the_last_linear() -> None:
    """The gradient of a bias is the sum of those at the outputs: found by a plain backward pass, without any hook."""
    model, processor = tiny_model(), tiny_chat_model("llava")[1]
    last = model.model.multi_modal_projector.linear_2.requires_grad_(True)
    generator = torch.Generator().manual_seed(ANSWER_SEED)
    for i in range(0, 5, 2):
        prompts = [f"user\n<image>\n{question}<end>\nassistant\n" for question in QUESTIONS[i : i + 2]]
        options = {"return_tensors": "pt", "padding": True}
        inputs = processor(images=[[image] for image in IMAGES[i : i + 2]], text=prompts, **options)
        logits = model(**inputs).logits
        last_logits = torch.stack([row[mask.bool()][-1] for row, mask in zip(logits, inputs["attention_mask"])])  # noqa: B905
        answers = torch.multinomial(last_logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        F.cross_entropy(last_logits, answers, reduction="sum").backward()
    moments = anchor()["reference_sensitivity"]
    assert moments.count == 5 * 16
    torch.testing.assert_close(moments.mean_D * moments.count, last.bias.grad.double(), atol=1e-6, rtol=1e-4)
    assert torch.linalg.matrix_rank(moments.second_DD) > 5


def test_visual_states_are_what_the_projector_gives() -> None:
    parts = find_parts(tiny_model())
    expected = MomentsStream(32)
    expected.add(image_features(parts, IMAGES))
    torch.testing.assert_close(anchor()["visual"].second_EE, expected.moments().second_EE, atol=1e-6, rtol=1e-5)


def in_float64() -> VLMParts:
    """A trained projector, of whose plans the directions are in float64 too."""
    parts = trained_in_full("projector")
    parts.model.to(torch.float64)
    return parts


@pytest.mark.parametrize("basis", GATHERED)
def test_a_gathered_basis_is_held_and_asked_for_where_it_is_missing(basis: str) -> None:
    parts = in_float64()
    config = FilterConfig(mode="outputs", num_kept=5, basis=basis)
    plan = plan_holds(parts, anchor(), config)
    moments = anchor()[basis]
    held = plan.linears[0].subspace
    if "sensitivity" in basis:
        top = torch.linalg.eigh(moments.second_DD).eigenvectors[:, -5:]
    else:
        top = output_basis(moments).directions_DK[:, : 5 + output_basis(moments).num_sinks]
    torch.testing.assert_close(held.protected(top.T), top.T, atol=1e-9, rtol=0)
    assert held.num_protected == top.shape[1]
    assert basis in plan.tensors[-1].why
    with pytest.raises(HoldError, match=rf"not in this anchor; gather it with fit_anchor\(.*bases=\['{basis}'\]"):
        plan_holds(parts, tiny_anchor(), config)


def test_what_was_gathered_is_on_record_and_survives_the_disk(tmp_path) -> None:
    anchor().save(tmp_path / "anchor")
    loaded = Anchor.load(tmp_path / "anchor")
    assert loaded.provenance["bases"] == list(GATHERED)
    assert len(loaded.provenance["questions_hash"]) == 64
    for basis in GATHERED:
        torch.testing.assert_close(loaded[basis].second_EE, anchor()[basis].second_EE, atol=1e-15, rtol=1e-12)


def test_what_a_basis_needs_is_asked_for() -> None:
    model, processor = tiny_model(), tiny_chat_model("llava")[1]
    with pytest.raises(DataError, match=r"needs reference images: fit_anchor"):
        fit_anchor(model, processor, TEXTS, bases=["visual"])
    with pytest.raises(DataError, match="0 questions for 5 images"):
        fit_anchor(model, processor, TEXTS, IMAGES, bases=["reference_sensitivity"])
    with pytest.raises(ConfigError, match="found 'bottom'"):
        fit_anchor(model, processor, TEXTS, bases=["bottom"])
    with pytest.raises(ConfigError, match="no effect without"):
        fit_anchor(model, processor, TEXTS, IMAGES, questions=QUESTIONS)
    with pytest.raises(HoldError, match="gives 0 to 2"):
        fit_anchor(model, processor, TEXTS, linears=[], bases=["hidden:3"])
    processor.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        fit_anchor(model, processor, TEXTS, IMAGES, linears=[], bases=["reference_sensitivity"], questions=QUESTIONS)


def filter_of(mode: str = "outputs", **options: Any) -> Subspace:
    plan = plan_holds(in_float64(), anchor(), FilterConfig(mode=mode, **options))  # pyright: ignore
    return plan.linears[-1].subspace


def overlap(first: Subspace, second: Subspace) -> float:
    """Mean squared cosine between the protected directions."""
    eye = torch.eye(first.width, dtype=torch.float64)
    return float((first.protected(eye) * second.protected(eye)).sum()) / second.num_protected


@pytest.mark.parametrize("mode", ["outputs", "inputs", "manifold", "coupling"])
def test_random_directions_have_the_rank_of_the_true_ones_and_nothing_else_of_them(mode: str) -> None:
    true = filter_of(mode, num_kept=8)
    random, same, other = (filter_of(mode, num_kept=8, basis="random", basis_seed=seed) for seed in (0, 0, 1))
    assert random.num_protected == pytest.approx(true.num_protected)
    torch.testing.assert_close(random.directions_DK, same.directions_DK)
    expected = true.num_protected / true.width
    for filtered in (random, other):
        assert abs(overlap(true, filtered) - expected) < 0.15
    assert abs(overlap(random, other) - expected) < 0.15
    eye = torch.eye(random.directions_DK.shape[1], dtype=torch.float64)
    torch.testing.assert_close(random.directions_DK.T @ random.directions_DK, eye, atol=1e-12, rtol=0)


def test_random_directions_take_over_soft_gains() -> None:
    options = {"num_kept": 8, "hold": "decay", "gains": "ridge"}
    torch.testing.assert_close(filter_of(**options).gains_K, filter_of(**options, basis="random").gains_K)


@pytest.mark.parametrize("mode", ["outputs", "inputs"])
def test_random_energy_takes_as_much_of_a_gradient_step(mode: str) -> None:
    true, random = filter_of(mode, num_kept=6), filter_of(mode, num_kept=6, basis="random_energy")
    name = "inputs/model.multi_modal_projector.linear_2" if mode == "inputs" else "reference_sensitivity"
    step = anchor()[name].second_EE if mode == "inputs" else anchor()[name].second_DD

    def lost(filtered: Subspace) -> float:
        return float(filtered.protected(step).trace())

    assert lost(random) >= lost(true) * (1 - 1e-9)
    directions = random.directions_DK if not random.complement else None
    if directions is not None:
        without_last = Subspace(directions[:, :-1], random.gains_K[:-1])
        assert lost(without_last) < lost(true)
    only_embedding = Anchor({"text_embedding": anchor()["text_embedding"]})
    with pytest.raises(HoldError, match=r"needs gradients in the anchor; .*text_sensitivity"):
        config = FilterConfig(mode="outputs", num_kept=6, basis="random_energy")
        plan_holds(trained_in_full("projector"), only_embedding, config)


def test_bottom_directions_carry_the_same_energy_at_the_other_end() -> None:
    moments = anchor()["text_embedding"]
    basis = output_basis(moments)
    bottom = filter_of(num_kept=2, basis="bottom")
    energies = basis.energies_K.sort().values
    target = float(basis.energies_K[:2].sum())
    expected = int((energies.cumsum(0) < target * (1 - 1e-12)).sum()) + 1
    assert bottom.num_protected == expected > 2
    held = bottom.protected(torch.eye(32, dtype=torch.float64))
    assert float((held * moments.second_DD).sum()) == pytest.approx(float(energies[:expected].sum()), rel=1e-9)


def test_identity_under_decay_is_decoupled_l2_sp() -> None:
    parts = trained_in_full("projector")
    plan = plan_for(parts, mode="inputs", basis="identity", hold="decay", strength=2.0, num_kept=None)
    linear = plan.linears[-1]
    start = {name: p.detach().clone() for name, p in plan.parameters().items()}
    optimizer = torch.optim.SGD(trained_parameters(parts), lr=0.1)
    attach(plan, optimizer)
    loss = projector_loss(parts)
    optimizer.zero_grad()
    loss().backward()
    factor = torch.exp(torch.tensor(-0.1 * 2.0 / linear.base_rms))
    named = plan.parameters()
    expected = {name: start[name] - 0.1 * named[name].grad * factor for name in linear.tensors}
    optimizer.step()
    for name in linear.tensors:
        torch.testing.assert_close(named[name].detach(), expected[name], atol=1e-6, rtol=1e-4)


def test_identity_needs_no_states() -> None:
    parts = trained_in_full("projector")
    config = FilterConfig(mode="inputs", basis="identity", hold="decay")
    plan = plan_holds(parts, Anchor({}), config)
    assert [linear.subspace.num_protected for linear in plan.linears] == [25, 33]
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-3)
    attach(plan, optimizer)
    train(projector_loss(parts), optimizer, steps=2)


def test_one_linear_alone_takes_its_own_states_and_controls_of_them() -> None:
    alone = Anchor.from_states(torch.randn(200, 12) @ torch.randn(12, 12))
    linear = torch.nn.Linear(12, 12)
    for basis in ("random", "bottom"):
        (held,) = alone.plan(linear, "out", num_kept=3, basis=basis).linears
        assert held.subspace.num_protected >= 3
    (everything,) = alone.plan(linear, "in", basis="identity", hold="decay").linears
    assert everything.subspace.num_protected == 13
    for basis in ("visual", "hidden:1", "random_energy"):
        with pytest.raises(HoldError, match="legal are these"):
            alone.plan(linear, "out", num_kept=3, basis=basis)
    with pytest.raises(HoldError, match="not legal for"):
        alone.plan(linear, "out", num_kept=3, mode="coupling")
