"""The promise on the language model: on the texts that its linears' inputs are held on, its forward pass stays."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import Tensor

from helpers.held_models import letter_texts, train, trained_parameters
from helpers.quantized import QUANTIZERS
from helpers.tiny_chat import VOCAB, tiny_chat_model
from textanchor.errors import HoldError
from textanchor.holds import FilterConfig, attach, fit_anchor, plan_holds
from textanchor.vlm.parts import VLMParts, find_parts
from textanchor.vlm.passes import prompt_inputs

NUM_TOKENS, WIDTH = 50, 64
WIDER = {"hidden_size": WIDTH, "intermediate_size": 96}  # more directions than the text has tokens, so some are free
EVERYTHING = FilterConfig(mode="inputs", kept_energy=1.0)


def text_parts(*, is_lora: bool, quantizer: str | None = None, **changes: Any) -> tuple[VLMParts, Any]:
    """A tiny model whose language model is trained, by LoRA or in all its linears."""
    model, processor = tiny_chat_model("llava", **changes)
    parts = find_parts(model.requires_grad_(False))
    for linear in parts.text_linears().values():
        if quantizer is not None:
            QUANTIZERS[quantizer](linear)
    if not is_lora:
        for linear in parts.text_linears().values():
            linear.requires_grad_(True)
        return parts, processor
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(parts.text_linears()))
    with torch.random.fork_rng():
        return find_parts(get_peft_model(model, config)), processor  # pyright: ignore[reportArgumentType]


def loss_on_other_tokens(parts: VLMParts):
    """Moves the states of random tokens."""
    language_model = parts.module(parts.language_model)
    generator = torch.Generator().manual_seed(3)
    ids_BL = torch.randint(5, VOCAB, (3, 10), generator=generator)
    dtype = next(p.dtype for p in parts.model.parameters() if p.is_floating_point())
    targets_BLD = torch.randn(3, 10, parts.embedding_width(), generator=generator, dtype=dtype)
    return lambda: (language_model(input_ids=ids_BL).last_hidden_state - targets_BLD).square().mean()


@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
def test_full_rank_hold_of_a_text_leaves_its_forward_pass_unchanged(is_lora: bool) -> None:
    """Every linear annihilates its own text inputs, so by induction over layers nothing changes on that text."""
    parts, processor = text_parts(is_lora=is_lora, **WIDER)
    parts.model.double()
    (text,) = letter_texts(1, length=70)
    held_BL = torch.tensor([processor.tokenizer(text)["input_ids"][:NUM_TOKENS]])
    anchor = fit_anchor(parts.model, processor, [text], parts=parts, max_length=NUM_TOKENS)
    plan = plan_holds(parts, anchor, {"language_model": EVERYTHING})
    assert held_BL.shape[1] == NUM_TOKENS
    assert len(plan.linears) == 14
    assert all(linear.subspace.num_protected < linear.subspace.width for linear in plan.linears)
    plan.freeze()
    other_BL = held_BL.flip(1)
    language_model = parts.module(parts.language_model)

    def states(ids_BL: Tensor) -> Tensor:
        with torch.no_grad():
            return language_model(input_ids=ids_BL).last_hidden_state

    before, before_other = states(held_BL), states(other_BL)
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2, weight_decay=0.1)
    attach(plan, optimizer)
    train(loss_on_other_tokens(parts), optimizer, steps=20)
    assert (states(other_BL) - before_other).abs().max() > 0.05
    assert (states(held_BL) - before).abs().max() < 1e-9


@pytest.mark.parametrize("language_images", [False, True], ids=["texts alone", "images too"])
def test_full_rank_hold_of_an_image_with_its_question_leaves_the_answer_unchanged(language_images: bool) -> None:
    """By the same induction over what the language model receives of both; held on a text alone, the answer moves."""
    parts, processor = text_parts(is_lora=True, **WIDER)
    parts.model.double()
    image, question = Image.new("RGB", (40, 40), "red"), "what is it"
    asked = {"images": [image], "questions": [question], "language_images": True} if language_images else {}
    anchor = fit_anchor(parts.model, processor, letter_texts(1, length=20), parts=parts, **asked)
    plan = plan_holds(parts, anchor, {"language_model": EVERYTHING})
    assert all(linear.subspace.num_protected < linear.subspace.width for linear in plan.linears)
    plan.freeze()
    inputs = prompt_inputs(parts, processor, [image], [question])

    def answer() -> Tensor:
        with torch.no_grad():
            return parts.model(**inputs).logits[:, -1]

    before = answer()
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2, weight_decay=0.1)
    attach(plan, optimizer)
    train(loss_on_other_tokens(parts), optimizer, steps=20)
    moved = float((answer() - before).abs().max())
    assert moved < 1e-9 if language_images else moved > 1e-3


def test_sinks_are_held_whatever_the_share_of_the_energy() -> None:
    parts, processor = text_parts(is_lora=False)
    texts = [f"What {text}" for text in letter_texts(12)]  # one token begins them all: one sink
    anchor = fit_anchor(parts.model, processor, texts, parts=parts)
    plan = plan_holds(parts, anchor, {"language_model": FilterConfig(mode="inputs", num_kept=1)})
    for linear in plan.linears:
        moments = anchor[f"inputs/{linear.name}"]
        assert moments.sink_count >= len(texts)  # the first token of each, and tokens of massive norm
        sinks_SD = moments.sinks_SE[:, :-1]
        assert linear.subspace.protected(sinks_SD).norm() > 0.999 * sinks_SD.norm()
        if moments.sink_count == len(texts):
            assert linear.subspace.num_protected == 2  # the sinks are not among the directions that are counted


@pytest.mark.parametrize("mode", ["inputs", "outputs", "coupling"])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_lora_on_a_frozen_quantised_base_is_held_through_its_own_factors(quantizer: str, mode: str) -> None:
    parts, processor = text_parts(is_lora=True, quantizer=quantizer)
    if mode != "inputs":
        for name, parameter in parts.parameters_of("language_model").items():
            parameter.requires_grad_("lora_" in name and ("o_proj" in name or "down_proj" in name))
    anchor = fit_anchor(parts.model, processor, letter_texts(12), parts=parts)
    plan = plan_holds(parts, anchor, {"language_model": FilterConfig(mode=mode, num_kept=8)})  # pyright: ignore
    assert len(anchor.provenance["model_hash"]) == 64
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2, weight_decay=0.1)
    handle = attach(plan, optimizer)
    train(loss_on_other_tokens(parts), optimizer, steps=10)
    report = handle.audit()
    report.require_kept()
    for row in report.rows:
        assert row.weight_leak is not None and row.bound is not None and row.weight_leak <= row.bound < 1e-4
        assert row.change_norm is not None and row.change_norm > 1e-2
        assert (row.relative_update is not None) == (quantizer == "tensor subclass")


def test_what_needs_the_values_of_a_quantised_weight_is_refused_where_they_are_unknown() -> None:
    for options in ({"hold": "decay"}, {"norm_cap": 0.1}):
        config = {"language_model": FilterConfig(mode="inputs", num_kept=8, **options)}
        for quantizer in QUANTIZERS:
            parts, processor = text_parts(is_lora=True, quantizer=quantizer)
            anchor = fit_anchor(parts.model, processor, letter_texts(4), parts=parts)
            if quantizer == "tensor subclass":
                assert plan_holds(parts, anchor, config).linears
            else:
                with pytest.raises(HoldError, match="relative to the weight, which is quantised"):
                    plan_holds(parts, anchor, config)


def test_a_quantised_weight_is_not_trained_in_full_under_a_rule() -> None:
    parts, processor = text_parts(is_lora=False)
    anchor = fit_anchor(parts.model, processor, letter_texts(4), parts=parts)
    for linear in parts.text_linears().values():
        QUANTIZERS["tensor subclass"](linear)
        linear.weight.requires_grad_(True)
    with pytest.raises(HoldError, match=r"its weight is quantised.* train LoRA on it"):
        plan_holds(parts, anchor, {"language_model": FilterConfig(mode="inputs", num_kept=4)})


def test_two_bases_have_two_hashes() -> None:
    from textanchor.holds.tensors import dense, is_quantized
    from textanchor.vlm.hashing import bit_hashes

    first, second = (torch.nn.Linear(4, 4) for _ in range(2))
    before = first.weight.detach().clone()
    for linear in (first, second):
        QUANTIZERS["tensor subclass"](linear)
    assert is_quantized(first.weight) and not is_quantized(before)
    assert bit_hashes(first.weight) != bit_hashes(second.weight)
    values = dense(first.weight)
    assert values is not None
    torch.testing.assert_close(values, before, atol=0.01, rtol=0)
