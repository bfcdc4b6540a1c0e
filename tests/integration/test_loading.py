"""load_vlm: what it reads back, and a one-paragraph error for every folder or name that it cannot read."""

import json
import shutil
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from helpers.tiny_llava import tiny_llava_with_processor
from textanchor.errors import DataError, ModelError
from textanchor.vlm import loading
from textanchor.vlm.loading import empty_vlm, load_vlm


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_llava")
    model, processor = tiny_llava_with_processor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def change_weights(folder, change):
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_reads_back_model_and_processor(saved):
    before, processor_before = tiny_llava_with_processor()
    model, processor = load_vlm(saved)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Née 漢?"}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    images = [Image.new("RGB", (50, 40), "red")]
    inputs = processor(images=images, text=[text], return_tensors="pt")
    expected = processor_before(images=images, text=[text], return_tensors="pt")
    assert all(torch.equal(inputs[key], expected[key]) for key in expected)
    assert not model.training
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, before(**inputs).logits, rtol=0, atol=0)
    assert "Née 漢?" in processor.tokenizer.decode(inputs["input_ids"][0])


def test_dtype_is_chosen_by_the_caller(saved):
    assert load_vlm(saved, dtype=torch.bfloat16)[0].dtype == torch.bfloat16
    assert load_vlm(str(saved))[0].dtype == torch.float32


def test_hub_id_without_network_fails_at_once(monkeypatch):
    # an address that refuses at once stands for a machine without network; nothing is asked of the real hub
    monkeypatch.setattr(loading.constants, "ENDPOINT", "http://127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(ModelError, match=r"owner/model: there is no such folder here.*does not answer.*'embedded'"):
        load_vlm("owner/model")
    assert time.monotonic() - begin < 5


def test_hub_is_not_asked_when_offline_is_set(monkeypatch):
    monkeypatch.setattr(loading.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(loading.urllib.request, "urlopen", None)
    with pytest.raises(ModelError, match="does not answer"):
        load_vlm("owner/model")


@pytest.mark.parametrize("name", ["nowhere", "/nowhere/at/all", "../nowhere/model", "", "x" * 300, "y/" * 3000])
def test_missing_folder(name):
    with pytest.raises(ModelError, match="no such folder; give 'embedded'"):
        load_vlm(name)


def test_file_instead_of_folder(folder):
    with pytest.raises(ModelError, match=r"expected a folder .* found a file"):
        load_vlm(folder / "config.json")


def test_folder_without_config_and_adapter_folder(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config.json.*check the path"):
        load_vlm(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="PEFT adapter: merge it"):
        load_vlm(folder)


def test_config_that_is_not_json(folder):
    (folder / "config.json").write_text('{"model_type": llava}')
    with pytest.raises(DataError, match=r"config.json, line 1, column 16"):
        load_vlm(folder)


REJECTED = {
    "a number": 3,
    "a list": [],
    "no model type": {},
    "a model type that is a list": {"model_type": ["llava"]},
    "text for a number": {"text_config.hidden_size": "big"},
    "a fraction of a layer": {"text_config.num_hidden_layers": 1.5},
    "heads that do not divide the width": {"text_config.num_attention_heads": 5},
    "no heads": {"vision_config.num_attention_heads": 0},
    "text for a part": {"text_config": "x"},
    "a part of an unknown type": {"vision_config.model_type": "unheard_of"},
    "a negative size": {"text_config.vocab_size": -5},
    "a width beyond every number": {"text_config.hidden_size": 4 * 10**30},
    "an unknown activation": {"text_config.hidden_act": "swoosh"},
    "a layer that is not there": {"vision_config.hidden_act": None},
}


def change_config(folder, changes):
    content = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        *parts, last = key.split(".")
        (content[parts[0]] if parts else content)[last] = value
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("what", REJECTED)
def test_a_configuration_that_transformers_rejects(folder, what):
    changes = REJECTED[what]
    if isinstance(changes, dict) and changes:
        change_config(folder, changes)
    else:
        (folder / "config.json").write_text(json.dumps(changes))
    for load in (empty_vlm, load_vlm):
        with pytest.raises(ModelError, match=r"^[^:]*config.json: ") as caught:
            load(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text_config.num_hidden_layers", 1_000_000),
        ("vision_config.num_hidden_layers", 2_001),
        ("text_config.n_layer", 10**18),
        ("vision_config.depths", [2, 10**9]),
        ("text_config.num_local_experts", 10**6),
    ],
)
def test_numbers_of_layers_are_bounded(folder, key, value):
    change_config(folder, {key: value})
    begin = time.monotonic()
    for load in (empty_vlm, load_vlm):
        with pytest.raises(ModelError, match=rf"config.json: {key} is \d+, and models of at most 2,000 layers"):
            load(folder)
    assert time.monotonic() - begin < 2


def test_pickled_weights_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\), which can run code"):
        load_vlm(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"as \*.safetensors, found none"):
        load_vlm(folder)


def test_damaged_weights(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"a .*safetensors file is damaged; copy or download it again"):
        load_vlm(folder)


def test_missing_shard(folder):
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="1 of 1 files that the index names are missing"):
        load_vlm(folder)


def test_missing_tensors_are_not_filled_with_random_numbers(folder):
    change_weights(folder, lambda weights: {n: w for n, w in weights.items() if "multi_modal_projector" not in n})
    with pytest.raises(ModelError, match=r"4 tensors of the model are missing .*multi_modal_projector.linear_1.bias"):
        load_vlm(folder)


def test_tensor_of_another_shape(folder):
    name = "multi_modal_projector.linear_1.bias"
    change_weights(folder, lambda weights: weights | {name: weights[name][:4].clone()})
    with pytest.raises(ModelError, match=rf"have another shape in the weights \(model.{name}\)"):
        load_vlm(folder)


def test_language_model_alone_and_unknown_type(folder, tmp_path):
    model, _ = tiny_llava_with_processor()
    LlamaForCausalLM(model.config.text_config).save_pretrained(tmp_path / "text")
    with pytest.raises(ModelError, match="model type 'llama' is no vision-language model"):
        load_vlm(tmp_path / "text")
    (folder / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(ModelError, match="configuration cannot be used"):
        load_vlm(folder)


def test_missing_processor(folder):
    for name in ("processor_config.json", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"processor.save_pretrained"):
        load_vlm(folder)
