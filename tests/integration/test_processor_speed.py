"""What makes a step faster on a processor changes nothing that is computed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import mixed_conversations, run_config
from textanchor.errors import ConfigError
from textanchor.training import trainer
from textanchor.training.adapt import adapt
from textanchor.training.collate import Collator
from textanchor.training.processor_speed import SHORT, attention_for, cast_once
from textanchor.training.sequences import encode


def gradients(model: Any, batch: dict[str, torch.Tensor], *, autocast: bool) -> dict[str, torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = model(**batch).loss
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()}


@pytest.fixture
def tiny() -> tuple[Any, dict[str, torch.Tensor]]:
    model, processor = tiny_llava_with_processor()
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    return model, Collator(pad_token_id=0)([encode(c, processor) for c in mixed_conversations()])


@pytest.mark.parametrize("autocast", [True, False])
def test_weights_cast_once_give_the_same_bits(tiny: Any, autocast: bool) -> None:
    model, batch = tiny
    expected = gradients(model, batch, autocast=autocast)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with cast_once(model):
        found = gradients(model, batch, autocast=autocast)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert any(name.endswith("linear_1.weight") for name in expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_copies_are_what_autocast_uses(tiny: Any) -> None:
    model, batch = tiny
    frozen = model.model.language_model.layers[0].mlp.down_proj
    expected = gradients(model, batch, autocast=True)["loss"]
    with cast_once(model):
        frozen.weight.mul_(2.0)
        assert torch.equal(gradients(model, batch, autocast=True)["loss"], expected)
        assert "forward" not in vars(model.model.multi_modal_projector.linear_1)
    assert not torch.equal(gradients(model, batch, autocast=True)["loss"], expected)


def test_a_forward_that_something_else_replaced_is_left_alone() -> None:
    linear = nn.Linear(2, 2).requires_grad_(False)
    linear.forward = lambda x: x
    with cast_once(nn.Sequential(linear)):
        assert linear.forward(1) == 1
    assert linear.forward(1) == 1


def test_a_run_with_weights_cast_once_is_the_same_run(tmp_path: Path) -> None:
    runs = {}
    for once in (False, True):
        model, processor = tiny_llava_with_processor()
        config = run_config(tmp_path / str(once), training__precision="bfloat16", training__cast_once=once)
        runs[once] = adapt(config, model=model, processor=processor).model.state_dict()
    start = tiny_llava_with_processor()[0].state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in runs[True].items())
    assert all(torch.equal(value, runs[True][name]) for name, value in runs[False].items())


def test_in_float32_there_is_nothing_to_cast(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cast_once has no effect"):
        run_config(tmp_path / "out", training__cast_once=True, training__precision="float32")


def test_plain_attention_gives_the_gradients_of_the_fused_one(tiny: Any) -> None:
    model, batch = tiny
    assert len(set(batch["attention_mask"].sum(dim=1).tolist())) > 1, "rows are padded"
    fused = gradients(model, batch, autocast=False)
    with attention_for(torch.device("cpu"), batch["input_ids"].shape[1], bfloat16=True):
        plain = gradients(model, batch, autocast=False)
    assert all(torch.allclose(plain[name], value, rtol=1e-4, atol=1e-6) for name, value in fused.items())


@pytest.mark.parametrize(
    ("device", "num_tokens", "bfloat16", "is_plain"),
    [("cpu", SHORT, True, True), ("cpu", SHORT + 1, True, False), ("cpu", 8, False, False), ("meta", 8, True, False)],
)
def test_plain_attention_is_for_short_sequences_in_bfloat16(
    device: str, num_tokens: int, bfloat16: bool, is_plain: bool
) -> None:
    with attention_for(torch.device(device), num_tokens, bfloat16=bfloat16):
        assert torch.backends.cuda.flash_sdp_enabled() != is_plain
    assert torch.backends.cuda.flash_sdp_enabled()


def test_a_run_in_bfloat16_asks_for_the_kernels_of_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noted(device: torch.device, num_tokens: int, *, bfloat16: bool) -> Any:
        asked.append((device.type, num_tokens, bfloat16))
        return attention_for(device, num_tokens, bfloat16=bfloat16)

    monkeypatch.setattr(trainer, "attention_for", noted)
    model, processor = tiny_llava_with_processor()
    adapt(run_config(tmp_path / "out", training__precision="bfloat16"), model=model, processor=processor)
    assert {(kind, bfloat16) for kind, _, bfloat16 in asked} == {("cpu", True)}
    assert all(1 < number < SHORT for _, number, _ in asked)
