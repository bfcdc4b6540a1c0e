"""The text backbone of every family: the whole model's logits, no copy, nothing written into the model."""

import pytest
import torch

from helpers.tiny_families import TINY
from helpers.tiny_models import tiny_vlm
from textanchor.errors import ModelError
from textanchor.vlm.causal import causal_on_text
from textanchor.vlm.text_backbone import text_backbone

ITSELF = {
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "mllama"),  # no causal class for their text configuration
    *("aya_vision", "cohere2_vision"),  # the causal class scales the logits, the whole model does not
}
IMAGE_NEEDED = {"blip_2", "instructblip"}
IDS = torch.tensor([[1, 5, 6, 7, 8, 9, 10, 11]])


@pytest.mark.parametrize("name", sorted(TINY.keys() - {"florence2"}))
def test_backbone(name: str) -> None:
    model = tiny_vlm(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    backbone = text_backbone(model)
    assert (backbone is model) == (name in ITSELF)
    assert {id(p) for p in backbone.parameters()} <= {id(p) for p in model.parameters()}
    if name not in IMAGE_NEEDED:
        with torch.inference_mode():
            alone, whole = (m(input_ids=IDS).logits for m in (backbone, causal_on_text(model)))
        torch.testing.assert_close(alone, whole, rtol=0, atol=1e-6)  # PaliGemma builds its mask in another way
    backbone.tie_weights()  # as lm-eval does
    after = model.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_an_adapter_inside_the_decoder_stays_in_effect() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_vlm("llava")
    plain = text_backbone(model)(input_ids=IDS).logits
    target = r"model\.language_model\.layers\.\d+\.mlp\.down_proj"
    wrapped = get_peft_model(model, LoraConfig(target_modules=target, init_lora_weights=False))
    with torch.inference_mode():
        adapted = text_backbone(wrapped)(input_ids=IDS).logits
        assert torch.equal(adapted, wrapped(input_ids=IDS).logits)
    assert not torch.allclose(adapted, plain)


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ModelError, match="encoder-decoder"):
        text_backbone(tiny_vlm("florence2"))


def test_a_head_of_its_own_is_not_tied_by_the_text_configuration() -> None:
    model = tiny_vlm("llava")
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    head.weight = torch.nn.Parameter(torch.randn_like(embedding.weight))
    model.config.get_text_config().tie_word_embeddings = True
    own = head.weight.clone()
    text_backbone(model).tie_weights()
    assert torch.equal(model.get_output_embeddings().weight, own)
