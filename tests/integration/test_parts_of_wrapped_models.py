"""Base names hold inside PEFT: the trained copy of the projector is the projector, LoRA layers keep plain names."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers.tiny_models import tiny_inputs, tiny_vlm
from textanchor.vlm.capture import capture_inputs
from textanchor.vlm.names import base_parameters, peft_layers
from textanchor.vlm.parts import VLMParts, find_parts

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

SAVED = {
    "llava": "multi_modal_projector",
    "gemma3": "multi_modal_projector",
    "mllama": "multi_modal_projector",
    "qwen2_vl": "merger",
}


def wrapped(name):
    model = tiny_vlm(name)
    plain = find_parts(model)
    config = LoraConfig(r=2, target_modules=list(plain.text_linears()), modules_to_save=[SAVED[name]])
    return plain.to_dict() | {"text_linears": list(plain.text_linears())}, get_peft_model(model, config)


@pytest.mark.parametrize("name", sorted(SAVED))
def test_same_paths_as_before_wrapping_and_the_trained_copy_is_the_projector(name):
    before, model = wrapped(name)
    parts = find_parts(model)
    paths = {key: value for key, value in parts.to_dict().items() if key != "other_tensors"}
    assert paths == {key: value for key, value in before.items() if key in paths}
    assert list(parts.text_linears()) == before["text_linears"]
    projector = parts.parameters_of("projector")
    assert all(parameter.requires_grad for parameter in projector.values())
    trained = {id(p) for name, p in model.named_parameters() if "modules_to_save" in name}
    assert {id(parameter) for parameter in projector.values()} == trained


@pytest.mark.parametrize("name", sorted(SAVED))
def test_every_trained_parameter_is_in_a_part(name):
    _, model = wrapped(name)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained <= {id(p) for p in base_parameters(model).values()}
    parts = find_parts(model)
    adapters = [path for path, p in parts.parameters_of("language_model").items() if p.requires_grad]
    assert len(adapters) == 2 * len(parts.text_linears())
    assert all(".lora_A." in path or ".lora_B." in path for path in adapters)
    assert set(peft_layers(model)) == set(parts.text_linears())


def captured_inputs(model):
    states = {}
    with torch.no_grad():
        capture_inputs(
            model,
            find_parts(model).text_linears(),
            lambda: model(**tiny_inputs("llava")),
            lambda name, states_ND: states.update({name: states_ND}),
        )
    return states


def test_inputs_of_wrapped_linears_are_those_of_the_plain_model():
    plain, inside_peft = captured_inputs(tiny_vlm("llava")), captured_inputs(wrapped("llava")[1])
    assert plain.keys() == inside_peft.keys()
    for name, states_ND in plain.items():
        torch.testing.assert_close(inside_peft[name], states_ND)  # LoRA begins as zero


def test_parts_saved_before_wrapping_load_after_it(tmp_path):
    model = tiny_vlm("llava")
    find_parts(model).save(tmp_path / "parts.json")
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["linear_2"]))
    parts = VLMParts.load(tmp_path / "parts.json", peft_model)
    assert parts == find_parts(peft_model)
    assert "wrapped by PEFT" in str(parts)


def test_projector_under_lora_gives_the_base_linear_and_the_adapter_weights():
    peft_model = get_peft_model(tiny_vlm("llava"), LoraConfig(r=2, target_modules=["linear_1", "linear_2"]))
    parts = find_parts(peft_model)
    path, last = parts.last_projector_linear()
    assert path == "model.multi_modal_projector.linear_2" and type(last) is torch.nn.Linear
    assert f"{path}.lora_A.default.weight" in parts.parameters_of("projector")
    assert parts.to_dict() == find_parts(tiny_vlm("llava")).to_dict()


def test_with_adapters_switched_off_the_original_is_the_projector():
    _, model = wrapped("llava")
    with model.disable_adapter():
        parameters = find_parts(model).parameters_of("projector")
    assert {id(p) for p in parameters.values()} == {
        id(p) for name, p in model.named_parameters() if "original_module" in name
    }
