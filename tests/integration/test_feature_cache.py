"""Kept features of a frozen tower are an equivalent of the tower, or are refused."""

from typing import Any

import pytest
import torch

from helpers.tiny_chat import tiny_chat_model
from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_models import tiny_vlm
from helpers.tiny_runs import conversation, mixed_conversations
from textanchor.errors import ModelError
from textanchor.training.collate import Collator
from textanchor.training.features import FeatureCache, FeatureStore
from textanchor.training.sequences import encode
from textanchor.vlm.parts import find_parts


def count_calls(module: torch.nn.Module) -> list[int]:
    """Number of images in each call of a tower's first layer, which a look-up does not reach."""
    calls: list[int] = []
    inner = next(m for m in module.modules() if isinstance(m, torch.nn.Conv2d))
    inner.register_forward_hook(lambda _, args, output: calls.append(len(args[0])))
    return calls


@pytest.mark.parametrize("family", ["llava", "vipllava", "llava_next"])
def test_loss_and_gradients_with_kept_features_are_those_of_the_tower(family: str) -> None:
    model, processor = tiny_chat_model(family)
    parts = find_parts(model)
    parts.module(parts.vision_tower).requires_grad_(False)
    conversations = [c for c in mixed_conversations() if c.system is None]
    examples, collate = [encode(c, processor) for c in conversations], Collator(pad_token_id=0)

    def loss_and_gradients(batch: dict[str, Any]) -> list[torch.Tensor]:
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        return [
            loss.detach(),
            *(p.grad.clone() for p in parts.parameters_of("projector").values() if p.grad is not None),
        ]

    expected = loss_and_gradients(collate(examples))
    cache = FeatureCache(parts)
    indexed = list(cache.index(examples))
    calls = count_calls(parts.module(parts.vision_tower))
    with cache.lookup():
        found = loss_and_gradients(collate(indexed))
    assert calls == []
    assert len(found) == len(expected) > 2
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(model(**collate(examples)).loss, expected[0])  # real images again outside of it
    assert calls


def test_each_distinct_image_passes_the_tower_once() -> None:
    model, processor = tiny_llava_with_processor()
    store = FeatureStore()
    cache = FeatureCache(find_parts(model), store)
    calls = count_calls(model.model.vision_tower)
    list(cache.index(encode(c, processor) for c in mixed_conversations()))
    assert len(store) == 7  # 8 images, one of them twice
    again = list(cache.index([encode(conversation("x", ("What?", "this"), images=(1, 6)), processor)]))
    assert len(store) == 7
    assert sum(calls) == 7
    numbers = again[0].visual_inputs["pixel_values"][:, 0, 0, 0]
    assert numbers.min() >= 1
    assert len(set(numbers.tolist())) == 2


def test_a_store_serves_runs_with_the_same_tower_only() -> None:
    store = FeatureStore()
    model, processor = tiny_llava_with_processor()
    examples = [encode(c, processor) for c in mixed_conversations()]
    list(FeatureCache(find_parts(model), store).index(examples))

    model = tiny_llava_with_processor()[0]
    model.model.multi_modal_projector.linear_1.weight.data += 1
    calls = count_calls(model.model.vision_tower)
    cache = FeatureCache(find_parts(model), store)
    batch = Collator(pad_token_id=0)(list(cache.index(examples)))
    with cache.lookup(), torch.no_grad():
        found = model(**batch).loss
    assert calls == []
    assert torch.allclose(found, model(**Collator(pad_token_id=0)(examples)).loss, atol=1e-5)

    FeatureCache(find_parts(model), store, "bfloat16")
    assert len(store) == 0
    list(FeatureCache(find_parts(model), store).index(examples))
    model.model.vision_tower.post_layernorm.weight.data += 1
    FeatureCache(find_parts(model), store)
    assert len(store) == 0


def test_numbers_take_no_memory_and_texts_are_left_alone() -> None:
    model, processor = tiny_llava_with_processor()
    examples = [encode(c, processor) for c in mixed_conversations()[1:3]]
    image, text = FeatureCache(find_parts(model)).index(examples)
    assert image.visual_inputs["pixel_values"].untyped_storage().nbytes() == 2 * 4
    assert text is examples[1]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "glm4v"])
def test_a_projector_inside_the_tower_is_refused(family: str) -> None:
    with pytest.raises(ModelError, match="cache_features: false"):
        FeatureCache(find_parts(tiny_vlm(family)))


def test_a_tower_that_takes_more_than_pixels_is_refused() -> None:
    model, processor = tiny_chat_model("idefics3")
    example = encode(conversation("a", ("What?", "this"), images=1), processor)
    with pytest.raises(ModelError, match="cache_features: false"):
        list(FeatureCache(find_parts(model)).index([example]))
