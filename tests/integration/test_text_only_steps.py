"""Conversations without an image, as in LLaVA's own mix, where nothing that reads text is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import conversation, mixed_conversations, run_config, write_llava_data
from textanchor.errors import DataError
from textanchor.training.adapt import adapt
from textanchor.training.dataset import read_training_data

PROJECTOR_ONLY: dict[str, Any] = {
    "data__task": None,
    "data__num_images": None,
    "parts__language_model": {"train": "frozen"},
}

LORA = {"train": "lora", "learning_rate": 1e-2, "rank": 4}


def trained(tmp_path: Path, **changes: Any) -> dict[str, torch.Tensor]:
    config = run_config(tmp_path / "out", data__path=str(tmp_path / "data.json"), **PROJECTOR_ONLY | changes)
    model, processor = tiny_llava_with_processor()
    return {k: v.clone() for k, v in adapt(config, model=model, processor=processor).model.state_dict().items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"training__batch_size": 1, "training__max_steps": 8},
        {"training__batch_size": 1, "training__accumulation": 2},
        {"method": {"name": "l2sp", "strength": 0.1}},
        {"method": {"name": "lwf"}, "training__batch_size": 1},
        {"method": {"name": "ewc", "fisher": "diagonal"}},
        {"method": {"name": "ewc", "fisher": "kfac"}},
    ],
)
def test_a_step_of_texts_is_passed_over(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_llava_data(tmp_path)
    if changes.get("method", {}).get("name") == "ewc":  # its Fisher is taken on the same conversations
        changes = {"method": changes["method"] | {"old": {"path": str(tmp_path / "data.json"), "num_images": 4}}}
    before = tiny_llava_with_processor()[0].state_dict()
    after = trained(tmp_path, **changes)
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved and all("projector" in name for name in moved)


def test_texts_move_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batches are texts: without weight decay the weights stay as they are until an image comes."""
    texts = [conversation(f"text-{i}", ("How many?", "four")) for i in range(4)]
    monkeypatch.setattr("textanchor.training.adapt.read_training_data", lambda config: texts)
    before = tiny_llava_with_processor()[0].state_dict()
    after = trained(tmp_path, training__weight_decay=0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_data_without_any_image_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [c for c in mixed_conversations() if not c.images]
    monkeypatch.setattr("textanchor.training.dataset.read_conversations", lambda *_: texts)
    config = run_config(tmp_path / "out", data__path=str(tmp_path / "data.json"), **PROJECTOR_ONLY)
    with pytest.raises(DataError, match=r"none of its 1 conversations shows an image.*training projector alone"):
        read_training_data(config)
    config = run_config(
        tmp_path / "out", data__path=str(tmp_path / "data.json"), data__task=None, data__num_images=None
    )
    assert read_training_data(config) == texts, "a language model learns from texts"
