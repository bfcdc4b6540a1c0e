"""Candidate log-likelihoods are those of a loop over single prompts, on every path."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tiny_chat import tiny_chat_model
from textanchor.data.items import Item, open_image
from textanchor.errors import DataError, ModelError
from textanchor.evaluation.scoring.candidates import score_candidates, sharing_obstacle
from textanchor.evaluation.scoring.images import TowerCache
from textanchor.evaluation.scoring.prompting import render_prompt
from textanchor.evaluation.suite import EvaluationOptions

COLORS = ("red", "green", "blue")
PLACES = ("top left", "top right", "bottom left")


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size=(32, 32, 3), dtype=np.uint8))


def items(*, with_images: bool = True) -> list[Item]:
    """Several questions about one image, one about another, one open question and candidates of unequal length."""
    first, second = (picture(1), picture(2)) if with_images else (None, None)
    asked = [
        ("Is there a red circle in the image?", "yes", ("yes", "no"), first),
        ("Where is the red ring?", "top right", PLACES, first),
        ("What color is the circle?", "blue", COLORS, second),
        ("Where is the red ring?", "top left", (*PLACES, "top"), second),
        ("Describe the image.", "a red circle in the top left.", (), first),
        ("How many objects?", "two", ("one", "two", "three"), None),
    ]
    return [
        Item(id=str(i), task="t", question=question, answer=answer, choices=choices, image=image)
        for i, (question, answer, choices, image) in enumerate(asked)
    ]


def naive_nats(model: Any, processor: Any, item: Item, candidate: str, *, blind: bool = False) -> float:
    """One prompt and one answer at a time, with nothing of ours but the prompt."""
    prompt = render_prompt(processor, item, blind=blind)
    visual = {} if item.image is None or blind else {"images": [[open_image(item.image)]]}
    lengths, inputs = [], {}
    for text in (prompt, prompt + candidate):
        inputs = processor(text=[text], **visual, return_tensors="pt")
        lengths.append(inputs["input_ids"].shape[1])
    with torch.no_grad():
        log_p_LV = model(**inputs).logits[0].log_softmax(-1)
    ids_L = inputs["input_ids"][0]
    return -sum(float(log_p_LV[place - 1, ids_L[place]]) for place in range(lengths[0], lengths[1]))


FAMILIES = ["llava", "vipllava", "idefics3", "smolvlm", "llava_next", "llama", "qwen2", "qwen3", "mistral"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sharing", ["auto", "off"])
def test_scores_are_those_of_single_prompts(family: str, sharing: Any) -> None:
    changes = {"sliding_window": None} if family == "mistral" else {}
    model, processor = tiny_chat_model(family, **changes)
    asked = items(with_images=hasattr(processor, "image_processor"))
    assert (sharing_obstacle(model) is None) == (family != "llava_next")
    options = EvaluationOptions(sharing=sharing, max_tokens=200, batch_size=3)
    scores = score_candidates(model, processor, asked, options=options)
    for item, score in zip(asked, scores, strict=True):
        expected = [naive_nats(model, processor, item, candidate) for candidate in score.candidates]
        assert score.item_id == item.id
        assert score.nats == pytest.approx(expected, abs=1e-4)
    assert np.ptp(scores[3].nats) > 0.1, "the model must tell candidates apart, or the comparison says nothing"


def test_eager_attention_gives_the_same() -> None:
    model, processor = tiny_chat_model("llava")
    expected = [score.nats for score in score_candidates(model, processor, items())]
    model.set_attn_implementation("eager")
    assert sharing_obstacle(model) is None
    for score, nats in zip(score_candidates(model, processor, items()), expected, strict=True):
        assert score.nats == pytest.approx(nats, abs=1e-4)


@pytest.mark.parametrize("sharing", ["auto", "off"])
def test_blind_scores_see_no_image(sharing: Any) -> None:
    model, processor = tiny_chat_model("llava")
    options = EvaluationOptions(sharing=sharing)
    seeing = score_candidates(model, processor, items(), options=options)
    blind = score_candidates(model, processor, items(), blind=True, options=options)
    for item, score in zip(items(), blind, strict=True):
        assert score.nats[0] == pytest.approx(
            naive_nats(model, processor, item, score.candidates[0], blind=True), abs=1e-4
        )
    assert abs(seeing[0].nats[0] - blind[0].nats[0]) > 1e-3
    assert seeing[5].nats == pytest.approx(blind[5].nats, abs=1e-4), "an item without an image is the same either way"


def test_long_rows_are_split_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_chat_model("llava")
    whole = score_candidates(model, processor, items())
    monkeypatch.setattr("textanchor.evaluation.scoring.shared.ROW_NODES", 50)
    monkeypatch.setattr("textanchor.evaluation.scoring.shared.IMAGES_AT_ONCE", 1)
    split = score_candidates(model, processor, items(), options=EvaluationOptions(max_tokens=1))
    for one, other in zip(whole, split, strict=True):
        assert one.nats == pytest.approx(other.nats, abs=1e-4)


def test_adapters_are_scored_not_the_base_model() -> None:
    from peft import LoraConfig, get_peft_model

    model, processor = tiny_chat_model("llava")
    before = score_candidates(model, processor, items())
    config = LoraConfig(
        target_modules=r".*language_model.*(q_proj|down_proj)",
        modules_to_save=["multi_modal_projector"],
        init_lora_weights=False,
    )
    peft_model = get_peft_model(model, config).eval()
    for name, parameter in peft_model.named_parameters():
        if "modules_to_save" in name:
            parameter.data.mul_(1.5)
    after = score_candidates(peft_model, processor, items())
    expected = [naive_nats(peft_model, processor, items()[3], candidate) for candidate in after[3].candidates]
    assert after[3].nats == pytest.approx(expected, abs=1e-4)
    assert abs(after[3].nats[0] - before[3].nats[0]) > 1e-2


def test_an_unchanged_tower_sees_each_image_once() -> None:
    model, processor = tiny_chat_model("llava")
    passes = []
    model.model.vision_tower.register_forward_hook(lambda *args: passes.append(1))
    options = EvaluationOptions(tower_cache=TowerCache())
    first = score_candidates(model, processor, items(), options=options)
    assert len(passes) == 2, "four questions about two images"
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.weight.mul_(1.5)
    second = score_candidates(model, processor, items(), options=options)
    assert len(passes) == 2
    expected = naive_nats(model, processor, items()[0], "yes")
    assert second[0].nats[0] == pytest.approx(expected, abs=1e-4), "the projector itself is never cached"
    assert abs(first[0].nats[0] - second[0].nats[0]) > 1e-3


def test_a_changed_tower_is_noticed() -> None:
    model, processor = tiny_chat_model("llava")
    options = EvaluationOptions(tower_cache=TowerCache())
    score_candidates(model, processor, items(), options=options)
    with torch.no_grad():
        next(iter(model.model.vision_tower.parameters())).mul_(3)
    after = score_candidates(model, processor, items(), options=options)
    expected = naive_nats(model, processor, items()[0], "yes")
    assert after[0].nats[0] == pytest.approx(expected, abs=1e-4)


def test_autocast_is_close_and_off_by_default() -> None:
    model, processor = tiny_chat_model("llava")
    exact = score_candidates(model, processor, items())
    rounded = score_candidates(model, processor, items(), options=EvaluationOptions(precision="bfloat16"))
    gaps = [abs(a - b) for x, y in zip(exact, rounded, strict=True) for a, b in zip(x.nats, y.nats, strict=True)]
    assert 1e-4 < max(gaps) < 2.0


def test_training_mode_and_gradients_survive() -> None:
    model, processor = tiny_chat_model("llava")
    model.train()
    model.model.vision_tower.eval()
    modes = [module.training for module in model.modules()]
    score_candidates(model, processor, items())
    assert [module.training for module in model.modules()] == modes
    inputs = processor(text=["<image> yes"], images=[[picture(1)]], return_tensors="pt")
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


def test_measures_of_one_item() -> None:
    model, processor = tiny_chat_model("llava")
    score = score_candidates(model, processor, items())[3]
    p = np.exp(-np.array(score.nats))
    assert score.choice_nats_of("top left") == pytest.approx(-np.log(p[0] / p.sum()))
    assert score.best == score.candidates[int(np.argmax(p))]
    assert score.best_normalised == score.candidates[int(np.argmin(np.array(score.nats) / score.num_tokens))]
    assert len(set(score.num_tokens)) > 1


def test_gold_answer_outside_the_choices_is_named() -> None:
    model, processor = tiny_chat_model("llava")
    item = Item(id="item-7", task="t", question="What?", answer="pink", choices=COLORS)
    with pytest.raises(DataError, match=r"item-7.*'pink'"):
        score_candidates(model, processor, [item])


def test_equal_candidates_are_refused() -> None:
    model, processor = tiny_chat_model("llava")
    item = Item(id="item-8", task="t", question="What?", answer="red", choices=("red", "red"))
    with pytest.raises(DataError, match="item-8"):
        score_candidates(model, processor, [item])


def test_families_that_read_both_ways_are_refused() -> None:
    from helpers.tiny_models import tiny_vlm

    _, processor = tiny_chat_model("llava")
    with pytest.raises(ModelError, match="paligemma"):
        score_candidates(tiny_vlm("paligemma"), processor, items())


def test_no_chat_template_names_the_way_out() -> None:
    model, processor = tiny_chat_model("llava")
    processor.chat_template = None
    with pytest.raises(ModelError, match="chat_template"):
        score_candidates(model, processor, items())


def test_image_items_need_a_processor_for_images() -> None:
    model, processor = tiny_chat_model("llama")
    with pytest.raises(ModelError, match="item 0"):
        score_candidates(model, processor, items())


@pytest.mark.parametrize("word", ["multi_modal_projector.linear_1.weight", "vision_tower", "multi_modal_projector"])
def test_weights_that_are_not_finite_are_said_to_be(word: str) -> None:
    """Not that the family is one whose images cannot be shared."""
    model, processor = tiny_chat_model("llava")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if word in name:
                parameter.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"NaN or infinite numbers of an image.*`textanchor diff BASE MODEL` names"):
        score_candidates(model, processor, items())
