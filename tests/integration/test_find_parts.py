"""Overrides, unknown families, models that are none, saving, and what is printed."""

import pytest
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_models import tiny_vlm
from textanchor.errors import ModelError
from textanchor.vlm import families
from textanchor.vlm.parts import VLMParts, find_parts

PROJECTOR = "model.multi_modal_projector"


@pytest.fixture
def no_table(monkeypatch):
    for model_type in tuple(families.FAMILIES):
        monkeypatch.delitem(families.FAMILIES, model_type)


def test_the_user_has_the_last_word_and_may_name_bare_parameters():
    parts = find_parts(tiny_vlm("gemma3"), projector=f"{PROJECTOR}.mm_input_projection_weight")
    assert parts.projector_tensors == (f"{PROJECTOR}.mm_input_projection_weight",)
    assert parts.projector_output == PROJECTOR
    assert parts.other_tensors == (f"{PROJECTOR}.mm_soft_emb_norm.weight",)
    assert parts.found_by["projector"] == "named by the user"


def test_user_paths_are_kept_in_the_order_given():
    paths = [f"{PROJECTOR}.linear_1", f"{PROJECTOR}.linear_2"]
    parts = find_parts(
        tiny_vlm("llava"), vision_tower="model.vision_tower", projector=paths, language_model="model.language_model"
    )
    assert parts.projector == tuple(paths)
    assert (parts.projector_input, parts.projector_output) == tuple(paths)
    assert parts.last_projector_linear()[0] == paths[1]


@pytest.mark.parametrize("argument", ["vision_tower", "projector", "language_model"])
def test_unknown_path_names_the_nearest(argument):
    with pytest.raises(ModelError, match=rf"{argument}='model.vision_towr'.*did you mean.*model.vision_tower"):
        find_parts(tiny_vlm("llava"), **{argument: "model.vision_towr"})


def test_paths_that_hold_one_another_are_refused():
    with pytest.raises(ModelError, match="vision_tower would have no parameters of its own"):
        find_parts(tiny_vlm("llava"), projector="model")


def test_unknown_family_with_one_candidate_is_found(no_table):
    parts = find_parts(tiny_vlm("llava"))
    assert parts.projector == (PROJECTOR,)
    assert parts.found_by["projector"] == "the only module outside vision tower and language model"


def test_unknown_family_with_two_candidates_is_an_error_that_names_both(no_table):
    with pytest.raises(ModelError, match=rf"model.image_newline, {PROJECTOR}.*find_parts\(model, projector=\["):
        find_parts(tiny_vlm("llava_next"))


def test_unknown_family_with_the_projector_inside_the_tower_names_the_tower_children(no_table):
    with pytest.raises(ModelError, match=r"in the tower are .*blocks, merger.*projector=\['model.visual.merger'\]"):
        find_parts(tiny_vlm("qwen2_vl"))


def test_model_without_language_head_is_found_by_the_same_table():
    parts = find_parts(tiny_vlm("llava_next").model)
    assert parts.projector == ("multi_modal_projector", "image_newline")
    assert parts.output_head is None


def test_text_only_model_is_refused_with_the_way_out():
    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ModelError, match=r"no vision tower found.*vision_tower="):
        find_parts(LlamaForCausalLM(config))
    with pytest.raises(ModelError, match="no vision tower found"):
        find_parts(nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["gemma3", "ovis2"])
def test_projector_without_a_linear_into_text_space_says_so(name):
    with pytest.raises(ModelError, match=r"no linear writes into text space.*penalty"):
        find_parts(tiny_vlm(name)).last_projector_linear()


def test_the_output_head_is_no_text_linear():
    for name in ("llava", "blip_2"):
        parts = find_parts(tiny_vlm(name))
        assert parts.output_head is not None and parts.output_head not in parts.text_linears()


def test_saved_parts_load_for_an_equal_model_only(tmp_path):
    parts = find_parts(tiny_vlm("llava"))
    parts.save(tmp_path / "parts.json")
    assert VLMParts.load(tmp_path / "parts.json", tiny_vlm("llava")) == parts
    with pytest.raises(ModelError, match="belong to another model"):
        VLMParts.load(tmp_path / "parts.json", tiny_vlm("gemma3"))
    with pytest.raises(ModelError, match="stored parts: expected the keys"):
        VLMParts.from_dict(tiny_vlm("llava"), {"projector": []})


def test_table_names_every_part_its_size_and_how_it_was_found():
    model, _ = tiny_llava_with_processor()
    lines = str(find_parts(model)).splitlines()
    assert lines[0] == "LlavaForConditionalGeneration"
    projector = next(line for line in lines if line.startswith("projector"))
    assert PROJECTOR in projector and "0.002 M" in projector and "table entry 'llava'" in projector
    assert [line.split("  ")[0] for line in lines[3:6]] == ["vision tower", "projector", "language model"]
    assert len({line.find("table entry") for line in lines if "table entry" in line}) == 1
    assert lines[-1].startswith("  output head (tied)")
    assert "inside the tower" in str(find_parts(tiny_vlm("qwen2_vl")))
