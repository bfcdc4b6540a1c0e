"""Every family that Transformers takes images with: its parts, checked by what gradients reach through them.

With the projector's outputs cut off, no gradient reaches the tower; with them, each tensor of the projector gets one.
"""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from helpers.tiny_families import TINY
from helpers.tiny_families_shrunk import SHRUNK
from helpers.tiny_models import model_type_of, tiny_inputs, tiny_vlm
from helpers.tiny_sizes import shrunk
from textanchor.errors import ModelError
from textanchor.vlm import families
from textanchor.vlm.families import FAMILIES
from textanchor.vlm.names import base_parameters, is_within
from textanchor.vlm.parts import VLMParts, find_parts

NOT_IN_THE_MAPPING = {"phi4_multimodal"}
NOT_BUILT = {"evolla"}  # in the mapping by mistake: the class reads proteins, and AutoModel refuses it
LACKS = {
    "blip": "no projector: the cross-attention",
    "chameleon": "no vision tower: images become tokens",
    "emu3": "no vision tower: images become tokens",
    "fuyu": "no vision tower: one linear",
    "mistral4": "no vision tower: it is a language model",
    "pix2struct": "no projector: the cross-attention",
    "udop": "no vision tower: one encoder reads words and patches",
    "vision-encoder-decoder": "no projector: the cross-attention",
}
WITH_PARTS = sorted((TINY.keys() | SHRUNK.keys()) - LACKS.keys())
OUT_OF_THIS_PASS = {
    "granite_docling": "connector.fine",  # for pages of small print
    "hunyuan_vl": "image_sep",  # the model's code has no use for it
}
OTHER_ENCODERS = {"deepseek_vl_hybrid", "gemma3n", "pi0"}
"""Families of which more than the three parts runs: a second tower, an embedder of sound, a head for actions."""
WITHOUT_HEAD = {"pi0"}
OMNI = ["qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "dots3_note", "inkling_mm_model", "muse_spark"]

every_family = pytest.mark.parametrize("name", WITH_PARTS)


@functools.cache
def parts_of(name: str) -> VLMParts:
    """Parts of one model for all tests; whoever changes it leaves it as it was."""
    return find_parts(tiny_vlm(name))


def with_gradient(parts: VLMParts, inputs: dict[str, Any]) -> set[str]:
    """Names of the parameters that a gradient of the logits reaches."""
    parts.model.requires_grad_(True)
    parts.model(**inputs).logits.square().sum().backward()
    reached = {name for name, parameter in base_parameters(parts.model).items() if parameter.grad is not None}
    parts.model.zero_grad(set_to_none=True)
    return reached


def detached(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, tuple | list):
        return type(output)(detached(entry) for entry in output)
    return type(output)({name: detached(value) for name, value in output.items()}) if output is not None else None


def test_the_table_is_of_all_families_that_transformers_has() -> None:
    assert set(FAMILIES) == set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) | NOT_IN_THE_MAPPING
    assert set(FAMILIES) == {model_type_of(name) for name in (*TINY, *SHRUNK)} | NOT_BUILT
    assert {name for name, family in FAMILIES.items() if family.lacks} == LACKS.keys() | NOT_BUILT


@pytest.mark.parametrize(("name", "words"), LACKS.items())
def test_a_family_without_tower_or_projector_is_refused_in_these_words(name: str, words: str) -> None:
    with pytest.raises(ModelError, match=rf"{name}.*it has {words}"):
        find_parts(tiny_vlm(name))


def test_a_variant_that_has_the_part_is_found() -> None:
    """A projector stands between a ViT and a BERT only where their widths differ."""
    config = AutoConfig.for_model(
        "vision-encoder-decoder", **shrunk("vision-encoder-decoder", encoder={"hidden_size": 24, "model_type": "vit"})
    )
    parts = find_parts(AutoModelForImageTextToText.from_config(config))
    assert (parts.vision_tower, parts.projector, parts.language_model) == ("encoder", ("enc_to_dec_proj",), "decoder")


def test_a_configuration_without_vision_is_refused_in_these_words() -> None:
    for name in ("gemma4", "gemma4_unified"):
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(name))
        with pytest.raises(ModelError, match=r"it has no vision tower: its configuration has no vision_config"):
            find_parts(model)


@every_family
def test_images_reach_the_language_model_through_the_projector_alone(name: str) -> None:
    parts, inputs = parts_of(name), tiny_inputs(name)
    reached = with_gradient(parts, inputs)
    assert parts.vision_tower and reached & parts.parameters_of("vision_tower").keys()
    assert not reached & parts.parameters_of("other").keys() or name in OTHER_ENCODERS
    unreached = parts.parameters_of("projector").keys() - reached
    assert {path for path in unreached if OUT_OF_THIS_PASS.get(name, "nothing") not in path} == set()
    handles = [
        parts.module(path).register_forward_hook(lambda _, args, output: detached(output))
        for path in (parts.projector_output, *parts.further_outputs)
    ]
    cut_off = with_gradient(parts, inputs)
    for handle in handles:
        handle.remove()
    assert cut_off & parts.parameters_of("language_model").keys()
    assert not cut_off & parts.parameters_of("vision_tower").keys()


@every_family
def test_parts_are_disjoint_and_hold_no_other_modality(name: str) -> None:
    parts = parts_of(name)
    members = [parts.parameters_of(part) for part in ("vision_tower", "projector", "language_model", "other")]
    names = [path for part in members for path in part]
    assert len(names) == len(set(names))
    assert set(names) == set(base_parameters(parts.model))
    assert not [path for part in members[:3] for path in part if "audio" in path or "video_tower" in path]


@every_family
def test_the_head_gives_the_logits_and_is_no_linear_of_the_text(name: str) -> None:
    parts, shapes = parts_of(name), []
    if name in WITHOUT_HEAD:
        assert parts.output_head is None
        return
    assert parts.output_head is not None and not is_within(parts.output_head, parts.text_linears())
    head = parts.module(parts.output_head)
    handle = head.register_forward_hook(lambda _, args, output: shapes.append(tuple(output.shape)))
    with torch.no_grad():
        logits = parts.model(**tiny_inputs(name)).logits
    handle.remove()
    assert shapes == [tuple(logits.shape)]


@every_family
def test_each_text_linear_gives_one_tensor_of_its_width(name: str) -> None:
    """What LoRA and holds put in the place of a linear: Llama 4's router gives scores and logits."""
    parts, wrong = parts_of(name), []
    linears = parts.text_linears()
    assert linears
    handles = [
        linear.register_forward_hook(
            lambda module, args, output, path=path: (
                None if isinstance(output, Tensor) and output.shape[-1] == module.out_features else wrong.append(path)
            )
        )
        for path, linear in linears.items()
    ]
    with torch.no_grad():
        parts.model(**tiny_inputs(name))
    for handle in handles:
        handle.remove()
    assert wrong == []


@pytest.mark.parametrize("name", OMNI)
def test_outside_the_table_an_encoder_of_sound_is_never_the_projector(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(name)
    monkeypatch.delitem(families.FAMILIES, name)
    with pytest.raises(ModelError, match=r"audio_tower.*Name its modules"):
        find_parts(parts.model)
    by_hand = find_parts(parts.model, projector=parts.projector)
    assert by_hand.projector_tensors == parts.projector_tensors
    assert by_hand.found_by["projector"] == "named by the user"


def test_the_router_of_llama_4_is_frozen_as_what_it_is() -> None:
    parts = parts_of("llama4")
    routers = [name for name in parts.parameters_of("language_model") if ".router." in name]
    assert routers and not [name for name in parts.text_linears() if "router" in name]
