"""Ways in which tuned weights get lost elsewhere, each ended by an error or by how training is set up."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import run_config
from textanchor.errors import HoldError, ModelError
from textanchor.holds import Anchor, attach
from textanchor.training.adapt import adapt
from textanchor.training.adapters import AdapterTargets
from textanchor.training.config import PartConfig, PartsConfig
from textanchor.training.trainable import set_up_training
from textanchor.vlm.names import peft_layers
from textanchor.vlm.parts import find_parts

LORA = PartConfig(train="lora")


def test_targets_never_hit_the_tower_though_its_linears_have_the_same_names() -> None:
    model: Any = tiny_llava_with_processor()[0]
    by_name = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    assert any("vision_tower" in name for name in peft_layers(by_name))  # the trap
    parts = set_up_training(tiny_llava_with_processor()[0], PartsConfig(language_model=LORA), seed=0)
    assert not any("vision_tower" in name for name in peft_layers(parts.model))


def test_an_adapter_on_other_layers_than_asked_for_is_an_error() -> None:
    parts = find_parts(tiny_llava_with_processor()[0])
    targets = AdapterTargets(parts, {"language_model": list(parts.text_linears())}, {"language_model": LORA}, None)
    with pytest.raises(ModelError, match=r"other layers than asked for: .*vision_tower"):
        targets.wrapped(peft.LoraConfig(target_modules=["q_proj"]))


@pytest.mark.parametrize("saved", [None, ["multi_modal_projector"]], ids=["lora", "lora and modules_to_save"])
def test_a_model_that_peft_wraps_already_is_refused(saved: list[str] | None, tmp_path: Path) -> None:
    model, processor = tiny_llava_with_processor()
    config = peft.LoraConfig(
        target_modules=r".*language_model.*(q|v)_proj|.*projector\.linear_1", modules_to_save=saved
    )
    wrapped: Any = peft.get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match=r"wrapped by PEFT already.*merge_and_unload"):
        adapt(run_config(tmp_path / "out"), model=wrapped, processor=processor)


def test_a_tied_embedding_is_trained_once_and_comes_back_tied(tmp_path: Path) -> None:
    model, processor = tiny_llava_with_processor()
    full = {"train": "full", "learning_rate": 1e-2}
    parts = {"projector": {"train": "frozen"}, "language_model": full}
    result = adapt(run_config(tmp_path / "out", parts=parts), model=model, processor=processor)
    rows = {row.name: row for row in result.audit.tensors}
    assert rows["model.language_model.embed_tokens.weight"].relative_update > 1e-3
    assert "lm_head.weight" not in rows
    reloaded = type(result.model).from_pretrained(tmp_path / "out")
    assert reloaded.lm_head.weight is reloaded.get_input_embeddings().weight
    assert torch.equal(reloaded.lm_head.weight, result.model.lm_head.weight)


def test_a_hold_refuses_an_adapter_that_does_not_start_at_zero() -> None:
    linear = torch.nn.Linear(16, 12)
    model: Any = peft.get_peft_model(
        torch.nn.Sequential(linear),  # pyright: ignore[reportArgumentType]
        peft.LoraConfig(target_modules=["0"], r=2, init_lora_weights="pissa"),
    )
    (layer,) = peft_layers(model).values()
    plan = Anchor.from_states(torch.randn(40, 16)).plan(layer, side="in", num_kept=4, hold="exact")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with pytest.raises(HoldError, match=r"does not start at zero.*re-base"):
        attach(plan, optimizer)
