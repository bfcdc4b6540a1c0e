"""fit_anchor on tiny models: what is gathered, shared, and left untouched."""

import pytest
import torch

from helpers.held_models import image_features, letter_texts, noise_images, tiny_anchor, tiny_model, trained_by_lora
from helpers.tiny_chat import tiny_chat_model
from textanchor.errors import DataError, HoldError
from textanchor.holds import Anchor, fit_anchor
from textanchor.spectral import MomentsStream
from textanchor.vlm.parts import find_parts

LAYER = "model.language_model.layers.0"


def inputs_of(module: torch.nn.Module, run) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    run()
    handle.remove()
    return torch.cat([x.reshape(-1, x.shape[-1]) for x in seen])


def test_moments_are_those_of_the_states_that_enter_each_linear() -> None:
    model, processor = tiny_chat_model("llava")
    texts, images = letter_texts(4), noise_images(3)
    anchor = fit_anchor(model, processor, texts, images, batch_size=3)
    parts = find_parts(model)
    rows = [processor.tokenizer(text)["input_ids"] for text in texts]
    language_model = parts.module(parts.language_model)
    for name in (f"{LAYER}.self_attn.q_proj", "model.language_model.layers.1.mlp.gate_proj"):
        stream = MomentsStream(32)
        for ids in rows:  # one by one: padding and batches change nothing
            states = inputs_of(parts.module(name), lambda: language_model(input_ids=torch.tensor([ids])))  # noqa: B023
            is_sink = torch.arange(len(ids)) == 0
            stream.add(states, is_sink_N=is_sink | (torch.tensor(ids) == processor.tokenizer.bos_token_id))
        expected, actual = stream.moments(), anchor[f"inputs/{name}"]
        assert (actual.count, actual.sink_count) == (expected.count, expected.sink_count)
        torch.testing.assert_close(actual.second_EE, expected.second_EE, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(actual.mean_D, expected.mean_D, atol=1e-5, rtol=1e-4)
    ids = torch.tensor([token for row in rows for token in row])
    embedded = MomentsStream(32)
    embedded.add(model.get_input_embeddings().weight[ids])
    torch.testing.assert_close(anchor["text_embedding"].second_EE, embedded.moments().second_EE)
    assert anchor["inputs/model.multi_modal_projector.linear_1"].count == 3 * 16
    assert anchor["slopes/model.multi_modal_projector.linear_1"].width == 32


def test_linears_with_one_input_share_one_entry() -> None:
    anchor = tiny_anchor()
    assert anchor[f"inputs/{LAYER}.self_attn.v_proj"] is anchor[f"inputs/{LAYER}.self_attn.q_proj"]
    assert anchor[f"inputs/{LAYER}.mlp.up_proj"] is anchor[f"inputs/{LAYER}.mlp.gate_proj"]
    assert sum(name.startswith(f"inputs/{LAYER}") for name in anchor.moments) == 4


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image_features(find_parts(model), noise_images(1))  # Transformers puts hooks of its own at the first call
    num_hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    fit_anchor(model, tiny_chat_model("llava")[1], letter_texts(2), noise_images(2))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert num_hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_wrapped_model_gives_the_anchor_of_the_plain_one() -> None:
    processor, texts, images = tiny_chat_model("llava")[1], letter_texts(3), noise_images(2)
    plain = fit_anchor(tiny_model(), processor, texts, images)
    wrapped = fit_anchor(trained_by_lora().model, processor, texts, images)
    assert list(wrapped.moments) == list(plain.moments) and wrapped.aliases == plain.aliases
    for name, moments in plain.moments.items():
        torch.testing.assert_close(wrapped[name].second_EE, moments.second_EE)


def test_an_anchor_survives_the_disk(tmp_path) -> None:
    anchor = tiny_anchor()
    anchor.save(tmp_path / "anchor")
    loaded = Anchor.load(tmp_path / "anchor")
    assert dict(loaded.provenance) == dict(anchor.provenance) and dict(loaded.aliases) == dict(anchor.aliases)
    for name, moments in anchor.moments.items():
        torch.testing.assert_close(loaded[name].second_EE, moments.second_EE, atol=1e-15, rtol=1e-12)
        assert torch.equal(loaded[name].sinks_SE, moments.sinks_SE)
        assert (loaded[name].count, loaded[name].unit_norm) == (moments.count, moments.unit_norm)
    assert "inputs/model.language_model.layers.*.self_attn.q_proj" in str(loaded)
    assert {"model", "model_hash", "dtype", "texts_hash", "num_tokens", "num_images"} <= set(loaded.provenance)


def test_a_loaded_anchor_reads_moments_when_they_are_used(tmp_path) -> None:
    tiny_anchor().save(tmp_path / "anchor")
    loaded = Anchor.load(tmp_path / "anchor")
    name = next(iter(loaded.moments))
    assert loaded[name] is not loaded[name]  # nothing is kept
    (tmp_path / "anchor" / "anchor.safetensors").write_bytes(b"cut short")
    with pytest.raises(HoldError, match="save the anchor again"):
        loaded[name]
    with pytest.raises(HoldError, match="save the anchor again"):
        Anchor.load(tmp_path / "anchor")


def test_only_the_linears_that_are_asked_for_and_progress_is_told() -> None:
    calls: list[tuple[int, int]] = []
    anchor = fit_anchor(
        tiny_model(),
        tiny_chat_model("llava")[1],
        letter_texts(5),
        linears=[f"{LAYER}.mlp.down_proj"],
        batch_size=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert list(anchor.moments) == ["text_embedding", f"inputs/{LAYER}.mlp.down_proj"]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(HoldError, match="no moments of"):
        anchor["inputs/model.multi_modal_projector.linear_1"]


def calls_of(module: torch.nn.Module, run) -> list[tuple[int, ...]]:
    """Shapes of what the module gave during `run`."""
    shapes: list[tuple[int, ...]] = []
    handle = module.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    run()
    handle.remove()
    return shapes


def test_every_batch_passes_once_and_logits_that_nobody_reads_are_not_made() -> None:
    model, processor = tiny_chat_model("llava")
    texts, images, questions = letter_texts(20), noise_images(4), ["What?"] * 4

    def fit(**options) -> None:
        fit_anchor(model, processor, texts, images, batch_size=4, **options)

    def fit_with_questions() -> None:
        fit(questions=questions, language_images=True)

    final_norm, projector = model.model.language_model.norm, model.model.multi_modal_projector
    assert len(calls_of(final_norm, fit)) == 5 and len(calls_of(projector, fit)) == 1
    assert calls_of(model.lm_head, fit) == []
    assert len(calls_of(final_norm, fit_with_questions)) == 6 and len(calls_of(projector, fit_with_questions)) == 1
    assert [shape[:2] for shape in calls_of(model.lm_head, fit_with_questions)] == [(4, 1)]


def test_images_with_questions_count_for_the_projector_as_images_alone_do() -> None:
    model, processor = tiny_chat_model("llava")
    texts, images = letter_texts(4), noise_images(3)
    alone = fit_anchor(model, processor, texts, images, batch_size=2)
    asked = fit_anchor(model, processor, texts, images, batch_size=2, questions=["What?"] * 3, language_images=True)
    assert list(asked.moments) == list(alone.moments)
    for name in ("inputs/model.multi_modal_projector.linear_1", "slopes/model.multi_modal_projector.linear_1"):
        assert asked[name].count == alone[name].count == 3 * 16
        torch.testing.assert_close(asked[name].second_EE, alone[name].second_EE)
    assert asked[f"inputs/{LAYER}.mlp.down_proj"].count > alone[f"inputs/{LAYER}.mlp.down_proj"].count


def test_texts_without_tokens_are_refused() -> None:
    with pytest.raises(DataError, match="no text has a token"):
        fit_anchor(tiny_model(), tiny_chat_model("llava")[1], [])
