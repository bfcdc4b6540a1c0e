"""Scores of plain text are probabilities: over all continuations of a text they sum to 1, in every family."""

import itertools
import math
from typing import Any

import pytest
import torch

from helpers.tiny_families import TINY
from helpers.tiny_families_shrunk import SHRUNK
from helpers.tiny_models import tiny_vlm
from textanchor.errors import ModelError
from textanchor.evaluation.results.summary import values_of
from textanchor.evaluation.suite import EvaluationOptions
from textanchor.evaluation.suites.text import TextSuite
from textanchor.vlm.causal import causal_on_text, require_causal
from textanchor.vlm.text_backbone import text_backbone

IMAGE_NEEDED = {
    *("blip_2", "instructblip", "instructblipvideo", "blip", "kosmos-2", "pi0", "idefics", "florence2", "pix2struct"),
    *("pp_formulanet", "t5gemma2", "mistral4", "udop", "vision-encoder-decoder"),
}
"""Families that read nothing without an image, and encoder-decoders: the suite of plain text is not for them."""
BOTH_WAYS = {"diffusion_gemma"}
FAMILIES = sorted((TINY.keys() | SHRUNK.keys()) - IMAGE_NEEDED - BOTH_WAYS)
WITHOUT_PARTS = {"chameleon", "emu3", "fuyu"}
"""Families without a tower of their own: nothing here finds their language model."""


def sharpened(name: str) -> Any:
    """A random model whose weights are so large that what it reads shows."""
    model = tiny_vlm(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.3)
    return model


def continuations(model: Any, length: int) -> list[tuple[int, ...]]:
    """A token with every continuation of that length."""
    vocabulary = range(model.config.get_text_config().vocab_size)
    return [(1, *rest) for rest in itertools.product(vocabulary, repeat=length)]


def total_of_suite(model: Any, length: int) -> float:
    """Sum of the probabilities that the suite of plain text gives to all continuations."""
    texts = {str(i): " ".join(map(str, row)) for i, row in enumerate(continuations(model, length))}
    suite = TextSuite(name="text", texts=texts, base=model)
    scores = suite.score(model, lambda text: {"input_ids": [*map(int, text.split())]}, EvaluationOptions())
    assert max(values_of(scores, "text", "base_kl").values()) == 0.0
    return sum(math.exp(-nats) for nats in values_of(scores, "text", "nats").values())


def total_of_model(model: Any, length: int) -> float:
    """Sum of the probabilities that the model itself gives to all continuations."""
    rows_NL = torch.tensor(continuations(model, length))
    with torch.inference_mode():
        logits_NLV = model(input_ids=rows_NL, attention_mask=torch.ones_like(rows_NL), use_cache=False).logits
    log_p_NLV = logits_NLV[:, :-1].double().log_softmax(dim=-1)
    return float(log_p_NLV.gather(-1, rows_NL[:, 1:, None]).sum(dim=(1, 2)).exp().sum())


@pytest.mark.parametrize("name", FAMILIES)
def test_probabilities_of_all_continuations_sum_to_one(name: str) -> None:
    model = sharpened(name)
    assert total_of_suite(model, 1) == pytest.approx(1, abs=1e-4)
    if name not in WITHOUT_PARTS:
        assert total_of_model(text_backbone(model), 1) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["paligemma", "gemma3"])
def test_longer_ones_do_too_whatever_computes_the_attention(name: str, attention: str) -> None:
    model = sharpened(name)
    model.set_attn_implementation(attention)
    assert total_of_suite(model, 2) == pytest.approx(1, abs=1e-4)
    assert total_of_model(text_backbone(model), 2) == pytest.approx(1, abs=1e-4)


def test_paligemma_itself_reads_ahead_and_stays_as_it_is() -> None:
    model = sharpened("paligemma")
    before = total_of_model(model, 1)
    assert abs(before - 1) > 1e-3
    causal = causal_on_text(model)
    assert {id(p) for p in causal.parameters()} == {id(p) for p in model.parameters()}
    assert total_of_model(causal, 1) == pytest.approx(1, abs=1e-4)
    assert total_of_model(model, 1) == before
    assert model.config.get_text_config().use_bidirectional_attention is True
    assert causal_on_text(causal) is causal


def test_an_adapter_of_paligemma_is_read_causally_too() -> None:
    from peft import LoraConfig, get_peft_model

    target = r"model\.language_model\.layers\.\d+\.mlp\.down_proj"
    model = sharpened("paligemma")
    plain = logits_of_words(text_backbone(model))
    adapted = get_peft_model(model, LoraConfig(target_modules=target, init_lora_weights=False)).eval()
    assert total_of_suite(adapted, 1) == pytest.approx(1, abs=1e-4)
    backbone = text_backbone(adapted)
    assert total_of_model(backbone, 1) == pytest.approx(1, abs=1e-4)
    assert not torch.allclose(logits_of_words(backbone), plain)


def logits_of_words(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[1, 5, 6, 7]]), use_cache=False).logits


@pytest.mark.parametrize("name", sorted(BOTH_WAYS))
def test_a_model_that_can_only_read_both_ways_is_refused(name: str) -> None:
    model = sharpened(name)
    with pytest.raises(ModelError, match="both directions"):
        require_causal(model)
    with pytest.raises(ModelError, match="both directions"):
        total_of_suite(model, 1)
    with pytest.raises(ModelError, match="both directions"):
        text_backbone(model)


@pytest.mark.parametrize("name", ["blip_2", "kosmos-2", "idefics"])
def test_a_model_that_needs_an_image_is_told(name: str) -> None:
    suite = TextSuite(name="text", texts={"a": "1 2"})
    with pytest.raises(ModelError, match=r"takes no text without an image \(\w+Error: "):
        suite.score(tiny_vlm(name), lambda text: {"input_ids": [*map(int, text.split())]}, EvaluationOptions())
