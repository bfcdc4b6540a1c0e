"""Images through the projector of each kind of family: by its method, its own forward pass, or told why not."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from helpers.held_models import letter_texts, noise_images, train, trained_parameters
from helpers.tiny_chat import tiny_chat_model
from helpers.tiny_config import VOCAB
from helpers.tiny_models import tiny_inputs, tiny_vlm
from helpers.tiny_training import LetterTokenizer
from textanchor.errors import ConfigError, DataError, HoldError, ModelError
from textanchor.holds import Anchor, FilterConfig, attach, fit_anchor, plan_holds, take_probe
from textanchor.spectral import MomentsStream
from textanchor.vlm.parts import VLMParts, find_parts
from textanchor.vlm.passes import run_images

OF_THE_TEXT = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
BY_THE_METHOD = ("llava", "qwen2_5_vl", "qwen3_vl", "video_llava")
OF_THE_INNER_MODEL = ("deepseek_vl", "janus", "perception_lm", "dots3_note", "minicpmv4_6")
AFTER_THE_METHOD = ("llama4",)
WITH_A_TEXT_ALONE = ("mllama", "git", "kosmos-2", "kosmos-2.5", "instructblipvideo")
TOKENIZER_ALONE = SimpleNamespace(tokenizer=LetterTokenizer())


def perturbed(name: str) -> VLMParts:
    """Parts of a tiny model without the zeros and ones that some tensors start with."""
    parts = find_parts(tiny_vlm(name).requires_grad_(False))
    torch.manual_seed(0)
    for parameter in parts.model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return parts


def processor_of(visual: dict[str, Any]) -> Any:
    """Gives the same image inputs for any images, and has no words for prompts."""
    return SimpleNamespace(tokenizer=LetterTokenizer(), image_processor=lambda images, return_tensors: visual)


def anchor_of(parts: VLMParts, processor: Any, images: list[Any], **options: Any) -> Anchor:
    return fit_anchor(parts.model, processor, letter_texts(2), images, parts=parts, **({"linears": []} | options))


@pytest.mark.parametrize("name", [*BY_THE_METHOD, *OF_THE_INNER_MODEL, *AFTER_THE_METHOD])
def test_images_alone_give_the_moments_of_the_models_own_forward_pass(name: str) -> None:
    parts, whole = perturbed(name), tiny_inputs(name)
    visual = {key: value for key, value in whole.items() if key not in OF_THE_TEXT}
    alone = anchor_of(parts, processor_of(visual), ["an image"], bases=["visual"])
    prepared = anchor_of(parts, TOKENIZER_ALONE, [whole], bases=["visual"])
    assert {f"inputs/{linear}" for linear in parts.projector_linears()} <= alone.moments.keys() | alone.aliases.keys()
    assert alone.moments.keys() == prepared.moments.keys() and alone.aliases == prepared.aliases
    for key, moments in prepared.moments.items():
        assert moments.count == alone[key].count > 0
        torch.testing.assert_close(alone[key].second_EE, moments.second_EE, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", WITH_A_TEXT_ALONE)
def test_a_family_that_takes_images_with_a_text_only_says_so(name: str) -> None:
    parts, whole = perturbed(name), tiny_inputs(name)
    anchor = anchor_of(parts, TOKENIZER_ALONE, [whole, whole])
    assert all(f"inputs/{linear}" in anchor for linear in parts.projector_linears())
    assert anchor.provenance["num_images"] == 2
    with pytest.raises(ModelError, match=r"mapping of the inputs of model\(\*\*batch\)"):
        run_images(parts, {key: value for key, value in whole.items() if key not in OF_THE_TEXT})
    with pytest.raises(ModelError, match=r"no chat template.*mapping of the inputs"):
        anchor_of(parts, processor_of({}), ["an image"])


def test_without_the_method_a_processor_writes_the_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_chat_model("llava")
    parts, images = find_parts(model), noise_images(3)
    by_method = anchor_of(parts, processor, images)
    monkeypatch.setattr("textanchor.vlm.passes._feature_methods", lambda model: [])
    by_prompts = anchor_of(parts, processor, images)
    for linear in parts.projector_linears():
        torch.testing.assert_close(by_prompts[f"inputs/{linear}"].second_EE, by_method[f"inputs/{linear}"].second_EE)


def test_batches_of_the_models_own_inputs_hold_their_questions() -> None:
    parts, whole = perturbed("llava"), tiny_inputs("llava")
    linears = list(parts.text_linears())
    options = {"linears": linears, "language_images": True, "bases": ["reference_sensitivity"]}
    anchor = anchor_of(parts, TOKENIZER_ALONE, [whole], **options)
    texts_alone = anchor_of(parts, TOKENIZER_ALONE, [whole], linears=linears)
    counted = [a[f"inputs/{linears[0]}"] for a in (anchor, texts_alone)]
    added = counted[0].count + counted[0].sink_count - counted[1].count - counted[1].sink_count
    assert added == whole["input_ids"].numel()
    assert anchor["reference_sensitivity"].count == 16
    with pytest.raises(ConfigError, match="hold theirs"):
        anchor_of(parts, TOKENIZER_ALONE, [whole], questions=["what?"], **options)
    with pytest.raises(DataError, match="are mixed"):
        anchor_of(parts, TOKENIZER_ALONE, [whole, *noise_images(1)])
    with pytest.raises(DataError, match="no input_ids, found pixel_values"):
        anchor_of(parts, TOKENIZER_ALONE, [{"pixel_values": whole["pixel_values"]}], **options)


def test_what_a_model_or_processor_lacks_is_told_with_a_way_out() -> None:
    parts, whole = perturbed("llava"), tiny_inputs("llava")
    with pytest.raises(ModelError, match=r"SimpleNamespace has no image_processor.*mapping"):
        anchor_of(parts, TOKENIZER_ALONE, noise_images(1))
    with pytest.raises(ModelError, match=r"refuses the batch .RuntimeError.*pixel_values.*mapping"):
        anchor_of(parts, TOKENIZER_ALONE, [whole | {"pixel_values": torch.randn(1, 2, 32, 32)}])
    text_alone = {"input_ids": torch.tensor([[5, 6]])}
    with pytest.raises(ModelError, match=r"multi_modal_projector\) does not run on the inputs input_ids;"):
        anchor_of(parts, TOKENIZER_ALONE, [text_alone])
    idefics = perturbed("idefics")
    with pytest.raises(ModelError, match=r"takes no text alone.*linears=\[\]"):
        anchor_of(idefics, TOKENIZER_ALONE, [], linears=list(idefics.text_linears()))


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_omni_moe_thinker", "cohere_compass"])
def test_all_projectors_of_deepstack_are_held(name: str) -> None:
    parts, whole = perturbed(name), tiny_inputs(name)
    for parameter in parts.parameters_of("projector").values():
        parameter.requires_grad_(True)
    anchor = anchor_of(parts, TOKENIZER_ALONE, [whole] * 8)
    plan = plan_holds(parts, anchor, FilterConfig(mode="outputs", num_kept=6, inner="pullback"))
    writers = parts.text_writers()
    assert len(writers) == 1 + len(parts.further_outputs) == 2
    assert {linear.name for linear in plan.linears if linear.is_text_writer} == writers.keys()
    outputs: dict[str, torch.Tensor] = {}
    for linear in writers:
        parts.module(linear).register_forward_hook(lambda _, args, out, linear=linear: outputs.update({linear: out}))
    probe = take_probe(parts, lambda: parts.model(**whole))
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
    handle = attach(plan, optimizer)
    start = {linear: outputs[linear].detach().double() for linear in writers}
    train(lambda: parts.model(**whole).logits.square().sum(), optimizer, steps=4)
    with torch.no_grad():
        parts.model(**whole)
    report = handle.audit(probe=probe)
    report.require_kept()
    for linear in plan.linears:
        if linear.is_text_writer:
            change = outputs[linear.name].detach().double() - start[linear.name]
            row = next(row for row in report.rows if row.name == linear.name)
            assert row.change_norm > 1e-2
            assert (row.function_leak is not None) == (writers[linear.name] == parts.projector_output)
            assert change.norm() > 1e-3
            assert linear.subspace.protected(change).norm() < 0.2 * change.norm()  # pullback is to first order


@pytest.mark.parametrize("hold", ["exact", "share", "decay"])
def test_a_linear_no_wider_than_its_sinks_is_held_whole(hold: str) -> None:
    """Gemma 3n has linears of four inputs (altup) beside wide ones; here as many sinks as eight span."""
    parts = perturbed("gemma3n")
    narrow = [name for name, linear in parts.text_linears().items() if linear.in_features <= 8]
    assert narrow
    for linear in parts.text_linears().values():
        linear.weight.requires_grad_(True)
    anchor = fit_anchor(parts.model, TOKENIZER_ALONE, letter_texts(12), parts=parts)
    options: dict[str, Any] = {"share": {"share": 0.1}, "decay": {"strength": 1.0}}.get(hold, {})
    config = FilterConfig(mode="inputs", kept_fraction=0.2, hold=hold, **options)  # pyright: ignore[reportArgumentType]
    plan = plan_holds(parts, anchor, {"language_model": config})
    whys = {row.name: row.why for row in plan.tensors if row.rule == "frozen"}
    assert all("no wider than the sinks" in whys[f"{name}.weight"] for name in narrow)
    assert len(plan.linears) == len(parts.text_linears()) - len(narrow)


@pytest.mark.parametrize("basis", ["inputs", "random", "bottom"])
def test_the_narrow_linear_alone_too(basis: str) -> None:
    torch.manual_seed(0)
    stream = MomentsStream(4, source="states")
    stream.add(torch.randn(200, 4), is_sink_N=torch.arange(200) < 8)
    anchor, linear = Anchor({"states": stream.moments()}), nn.Linear(4, 16, bias=False)
    plan = anchor.plan(linear, "in", kept_fraction=0.2, basis=basis)
    start = linear.weight.detach().clone()
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    attach(plan, optimizer)
    train(lambda: linear(torch.randn(8, 4)).square().sum(), optimizer, steps=3)
    torch.testing.assert_close(linear.weight.detach(), start, rtol=0, atol=1e-6)
    with pytest.raises(HoldError, match="leaves no direction free"):
        anchor.plan(linear, "in", kept_fraction=0.2, basis=basis, hold="share", share=0.1)


def test_the_vocabulary_of_these_models_has_room_for_letters() -> None:
    assert max(LetterTokenizer()(letter_texts(1)[0])["input_ids"]) < VOCAB
