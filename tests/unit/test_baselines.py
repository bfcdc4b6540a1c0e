"""Each baseline against its formula, and what it refuses."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import mixed_conversations, run_config
from helpers.tiny_sessions import merged_weights, moved, session
from textanchor.data.items import Conversation, Item, Turn
from textanchor.data.tasks import load_items
from textanchor.errors import ConfigError, ModelError
from textanchor.evaluation.scoring.generation import generate_answers
from textanchor.methods.lora_null import null_space_factors
from textanchor.methods.lorasculpt import LoRASculpt
from textanchor.methods.lwf import LwF
from textanchor.training.collate import Collator
from textanchor.training.config import PartsConfig
from textanchor.training.method import Batch, load_method
from textanchor.training.own_answers import own_answers
from textanchor.training.sequences import encode
from textanchor.training.trainable import trained_parameters
from textanchor.training.trainer import label_logits
from textanchor.vlm.names import base_parameters, peft_layers

BOTH = {"parts__projector": {"train": "full"}, "parts__language_model": {"train": "full"}}


def batch_logits(model: Any, processor: Any) -> Tensor:
    batch = Collator(0)([encode(c, processor) for c in mixed_conversations()[:2]])
    labels = batch.pop("labels")
    return label_logits(model, batch, labels)


@pytest.mark.parametrize("changes", [{}, BOTH], ids=["lora", "full"])
def test_lwf_is_the_cross_entropy_to_the_softened_answers_of_the_start(changes: dict[str, Any], tmp_path: Path) -> None:
    run = session(tmp_path, **changes)
    moved(run, 0.05)
    run.model.train()
    now = {name: parameter.detach().clone() for name, parameter in base_parameters(run.model).items()}
    logits_KV = batch_logits(run.model, run.processor)
    penalty = LwF(strength=0.7, temperature=3.0).start(run).batch_penalty
    assert penalty is not None
    term = penalty(Batch(logits_KV, lambda: batch_logits(run.model, run.processor)))
    old_KV = batch_logits(*tiny_llava_with_processor()).double().detach()
    roots_KV = old_KV.softmax(-1) ** (1 / 3)
    q_KV = roots_KV / roots_KV.sum(-1, keepdim=True)
    roots_KV = logits_KV.double().softmax(-1) ** (1 / 3)
    p_KV = roots_KV / roots_KV.sum(-1, keepdim=True)
    expected = -0.7 * (q_KV * p_KV.log()).sum(-1).mean()
    assert term.item() == pytest.approx(expected.item(), rel=1e-5)
    assert run.model.training
    assert all(torch.equal(now[name], p) for name, p in base_parameters(run.model).items())
    trained = list(trained_parameters(run.model).values())
    expected_grads = torch.autograd.grad(expected, trained, retain_graph=True)
    for found, wanted in zip(torch.autograd.grad(term, trained), expected_grads, strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_lwf_without_change_is_the_entropy_of_the_old_answers(tmp_path: Path) -> None:
    run = session(tmp_path)
    penalty = LwF().start(run).batch_penalty
    assert penalty is not None
    logits_KV = batch_logits(run.model, run.processor)
    term = penalty(Batch(logits_KV, lambda: batch_logits(run.model, run.processor)))
    entropy = torch.distributions.Categorical(logits=logits_KV / 2).entropy().mean()
    assert term.item() == pytest.approx(entropy.item(), rel=1e-5)


def no_answers(items: Sequence[Item]) -> list[Conversation]:
    raise AssertionError("the base was asked")


def test_replay_adds_the_old_items_to_the_new_ones() -> None:
    method = load_method({"name": "replay", "old": {"tasks": ["color", "shape"], "num_images": 3}})
    new = mixed_conversations()
    mixed = method.training_data(new, 0, no_answers)
    assert list(mixed[: len(new)]) == new
    assert [c.id.split("-")[1] for c in mixed[len(new) :]] == ["color"] * 3 + ["shape"] * 3
    assert method.needs == "old data"


def test_replay_of_questions_takes_the_answers_of_the_model_before_training() -> None:
    model, processor = tiny_llava_with_processor()
    method = load_method({"name": "replay", "reference": {"tasks": ["color", "shape"], "num_images": 4}})
    new = mixed_conversations()
    mixed = method.training_data(new, 0, partial(own_answers, model, processor))
    assert list(mixed[: len(new)]) == new
    asked = [load_items(task, split="validation", num_items=12)[i] for i in (0, 1) for task in ("color", "shape")]
    said = [generate_answers(model, processor, [item], max_new_tokens=128)[0].strip() for item in asked]
    assert [(c.turns, c.images) for c in mixed[len(new) :]] == [
        ((Turn(question=item.question, answer=answer),), (item.image,))
        for item, answer in zip(asked, said, strict=True)
    ]
    assert [answer for answer, item in zip(said, asked, strict=True) if answer == item.answer] == []
    assert method.needs == "reference questions"


def test_app_replays_its_reference_images_where_it_is_told_to() -> None:
    answered = partial(own_answers, *tiny_llava_with_processor())
    reference = {"tasks": ["color", "shape"], "num_images": 4}
    held = {"name": "app", "projector": {"mode": "outputs", "num_kept": 4}, "reference": reference}
    new = mixed_conversations()
    assert load_method(held).training_data(new, 0, no_answers) == new
    mixed = load_method(held | {"replay_reference": True}).training_data(new, 0, answered)
    assert mixed == load_method({"name": "replay", "reference": reference}).training_data(new, 0, answered)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of old .* and reference"),
        (
            {"old": {"tasks": ["color"], "num_images": 1}, "reference": {"task": "color", "num_images": 1}},
            "exactly one",
        ),
        ({"reference": {"folder": "images", "num_images": 1}}, r"give reference\.question"),
    ],
)
def test_replay_takes_answered_questions_or_questions(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_method({"name": "replay", **options})


@pytest.mark.parametrize("changes", [{}, BOTH], ids=["lora", "full"])
def test_lorasculpt_is_the_masked_norm_of_the_update(changes: dict[str, Any], tmp_path: Path) -> None:
    run = session(tmp_path, **changes)
    method = LoRASculpt(language_model_strength=0.3, projector_strength=0.7, omega=2.0)
    penalty = method.start(run).penalty
    assert penalty is not None
    assert penalty() == 0
    moved(run, 0.1)
    term = torch.as_tensor(penalty()).item()
    before = tiny_llava_with_processor()[0]
    weights, linears = before.state_dict(), run.parts.text_linears()
    deltas = merged_weights(run, before)

    def norm(name: str) -> float:
        total, size = 0.0, float(weights[name].double().norm())
        for w, d in zip(weights[name].double().flatten().tolist(), deltas[name].flatten().tolist(), strict=True):
            total += (math.tanh(2.0 * abs(1 / math.log(abs(w) / size + 1e-15))) * d) ** 2
        return math.sqrt(total)

    text = [norm(f"{name}.weight") for name in linears]
    projector = [norm(f"model.multi_modal_projector.linear_{i}.weight") for i in (1, 2)]
    assert term == pytest.approx(0.3 * sum(text) / len(text) + 0.7 * sum(projector) / 2, rel=1e-4)


def test_null_space_factors_are_the_weight_on_the_unused_inputs() -> None:
    weight_OI = torch.randn(6, 5)
    states_NI = torch.randn(40, 5) * torch.tensor([3.0, 2.0, 1.0, 0.1, 0.01])
    a_RI, b_OR = null_space_factors(weight_OI, (states_NI.T @ states_NI).double() / 40, 2)
    _, _, directions = torch.linalg.svd(states_NI, full_matrices=True)
    null_IR = directions[-2:].T
    assert torch.allclose(b_OR @ a_RI, weight_OI @ null_IR @ null_IR.T, atol=1e-5)
    assert torch.allclose(a_RI @ a_RI.T, b_OR.T @ b_OR, atol=1e-5)  # the root of S on either side


def adapted_from(name: str, tmp_path: Path, **options: Any) -> Any:
    (tmp_path / "texts.txt").write_text("A red star.")
    method = {"name": name, "texts": str(tmp_path / "texts.txt"), **options}
    return session(tmp_path, method=method, parts__language_model={"train": "lora", "rank": 4, "alpha": 12.0})


@pytest.mark.parametrize("name", ["corda", "lora_null"])
def test_an_adapter_that_does_not_start_at_zero_starts_from_the_same_model(name: str, tmp_path: Path) -> None:
    run = adapted_from(name, tmp_path)
    model, processor = tiny_llava_with_processor()
    assert torch.allclose(batch_logits(run.model, processor), batch_logits(model, processor), atol=1e-5)
    weights = model.state_dict()
    assert set(run.start.first_updates) == set(peft_layers(run.model))
    for update in run.start.updates():
        assert not update.delta.any(), update.name
        assert update.start_norm == pytest.approx(float(weights[update.name].norm()), rel=1e-5)
    moved(run, 0.01)
    found = {update.name: update.delta for update in run.start.updates()}
    for name, delta in merged_weights(run, model).items():
        if name in found:
            assert torch.allclose(found[name], delta, atol=1e-6), name
        elif name != "lm_head.weight":
            assert not delta.any(), name


def test_lora_null_with_a_frozen_cannot_change_what_texts_give(tmp_path: Path) -> None:
    run = adapted_from("lora_null", tmp_path, freeze_a=True)
    ids = torch.tensor([run.processor.tokenizer("A red star.")["input_ids"]])
    before = run.model(input_ids=ids).logits
    other = torch.arange(4, 40)[None]
    before_other = run.model(input_ids=other).logits
    assert not any("lora_A" in name for name in trained_parameters(run.model))
    moved(run, 0.3, within="model.language_model")
    assert torch.allclose(run.model(input_ids=ids).logits, before, atol=2e-5)
    assert (run.model(input_ids=other).logits - before_other).abs().max() > 1e-2


def test_corda_starts_at_the_smallest_components_of_weight_times_covariance(tmp_path: Path) -> None:
    run = adapted_from("corda", tmp_path)
    name = "model.language_model.layers.0.mlp.down_proj"
    model, processor = tiny_llava_with_processor()
    seen: list[Tensor] = []
    linear = model.get_submodule(name)
    linear.register_forward_hook(lambda _, args, out: seen.append(args[0][0]))
    with torch.no_grad():
        model(input_ids=torch.tensor([processor.tokenizer("A red star.")["input_ids"]]))
    x_NI = (seen[0] / seen[0].max().abs()).double()
    second_II = x_NI.T @ x_NI
    second_II += 0.01 * second_II.diag().mean() * torch.eye(len(second_II))  # PEFT's damping
    weight_OI = linear.get_parameter("weight").detach().double()
    u, s, vh = torch.linalg.svd(weight_OI @ second_II, full_matrices=False)
    expected = u[:, -4:] @ s[-4:].diag() @ vh[-4:] @ torch.linalg.inv(second_II)
    found = run.start.first_updates[name].double()
    assert torch.allclose(found, expected, atol=1e-4 * float(weight_OI.norm()))
    assert found.norm() > 1e-3 * weight_OI.norm()


def test_attention_only_trains_the_four_projections_of_each_layer(tmp_path: Path) -> None:
    run = session(tmp_path, method={"name": "attention_only"}, parts=None)
    trained = {name.rpartition(".")[0].rpartition(".")[2] for name in trained_parameters(run.model)}
    assert trained == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert len(trained_parameters(run.model)) == 8
    frozen, low = {"train": "frozen"}, {"train": "lora", "only": "attention"}
    run = session(tmp_path, method={"name": "attention_only"}, parts={"projector": frozen, "language_model": low})
    assert {name.rpartition(".")[2] for name in peft_layers(run.model)} == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_frozen_projector_trains_the_language_model_alone(tmp_path: Path) -> None:
    run = session(tmp_path, method={"name": "frozen_projector"}, parts=None)
    assert {run.parts.part_of(name) for name in trained_parameters(run.model)} == {"language_model"}


LORA = {"projector": {"train": "lora"}, "language_model": {"train": "lora"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"method": {"name": "zero_shot"}}, "parts.projector.train is full, but method zero_shot trains nothing"),
    ({"method": {"name": "frozen_projector"}}, "parts.projector.train is full"),
    ({"method": {"name": "attention_only"}}, "parts.projector trains more than attention"),
    ({"method": {"name": "osf"}}, "parts.language_model.train is lora, but method osf"),
    ({"method": {"name": "osf", "kept_fraction": 1.0}}, "kept_fraction must lie between 0 and 1"),
    ({"method": {"name": "corda"}, "parts": LORA}, "method corda starts a LoRA on the language model"),
    ({"method": {"name": "lora_null"}, "parts": LORA}, "method lora_null starts a LoRA on the language model"),
    ({"method": {"name": "corda", "num_texts": 0}}, "num_texts must be at least 1"),
    ({"method": {"name": "wise_ft", "alpha": 1.0}}, "alpha must lie between 0 and 1"),
    ({"method": {"name": "norm_matched"}}, "exactly one of relative_norm and run"),
    ({"method": {"name": "norm_matched", "relative_norm": 0.0}}, "relative_norm must be greater than 0"),
    ({"method": {"name": "lwf", "temperature": 0.0}}, "temperature must be greater than 0"),
    ({"method": {"name": "lorasculpt", "omega": 0.0}}, "omega must be greater than 0"),
    (
        {"method": {"name": "lorasculpt", "language_model_strength": 0.0, "projector_strength": 0.0}},
        "both strengths are 0",
    ),
    ({"method": {"name": "ewc", "strength": 0.0}}, "strength must be greater than 0"),
    ({"method": {"name": "ewc", "num_texts": 2, "old": {"tasks": ["color"], "num_images": 1}}}, "no effect beside old"),
    ({"method": {"name": "ewc"}, "parts__language_model": {"train": "frozen"}}, "give it old data"),
    ({"method": {"name": "replay", "old": {"num_images": 1}}}, "exactly one of tasks and path"),
    ({"method": {"name": "replay", "old": {"tasks": ["color"], "num_images": 0}}}, "num_images must be at least 1"),
    ({"method": {"name": "replay"}}, "exactly one of old"),
    ({"parts__projector": {"train": "full", "only": "attention"}}, "projector.only: attention is chosen in the"),
    ({"parts__language_model": {"train": "frozen", "only": "attention"}}, "only has no effect"),
]


@pytest.mark.parametrize(("changes", "expected"), REFUSED, ids=lambda value: str(value)[:70])
def test_what_would_have_no_effect_is_refused(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        run_config(tmp_path / "out", **changes)


def test_osf_that_would_freeze_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is none; raise it"):
        session(tmp_path, method={"name": "osf", "kept_fraction": 0.01}, **BOTH)


def test_lorasculpt_on_nothing_is_refused(tmp_path: Path) -> None:
    run = session(tmp_path, parts__projector={"train": "frozen"})
    with pytest.raises(ConfigError, match="penalises no linear"):
        LoRASculpt(language_model_strength=0.0).start(run)


def test_every_default_is_legal() -> None:
    for name in ("zero_shot", "full", "lora", "frozen_projector", "attention_only", "osf", "corda", "lora_null", "ewc"):
        method = load_method({"name": name})
        method.check_parts(method.default_parts())
        assert isinstance(method.default_parts(), PartsConfig)
