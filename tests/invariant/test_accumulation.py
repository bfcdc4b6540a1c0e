"""One step over a batch is one step over its parts, whatever their number of labels and images."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import run_config, write_llava_data
from textanchor.training.adapt import adapt

METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "l2sp": {"name": "l2sp", "strength": 1.0},
    "app": {"name": "app", "projector": {"mode": "outputs", "num_kept": 8, "hold": "share"}, "num_texts": 8},
}


def tuned(folder: Path, method: dict[str, Any], batch_size: int, accumulation: int) -> dict[str, torch.Tensor]:
    model, processor = tiny_llava_with_processor()
    config = run_config(
        folder / f"{batch_size}x{accumulation}",
        method=method,
        data={"path": str(folder / "data.json")},
        parts__projector={"train": "full", "learning_rate": 3e-3},
        parts__language_model={"train": "lora", "learning_rate": 3e-3, "rank": 4},
        training={"epochs": 2, "batch_size": batch_size, "accumulation": accumulation, "max_grad_norm": 0.5},
    )
    result = adapt(config, model=model, processor=processor)
    assert result.record.extra["label_only_logits"] is True
    return result.model.state_dict()


@pytest.mark.parametrize("name", METHODS)
def test_batch_4_is_4_times_batch_1(name: str, tmp_path: Path) -> None:
    write_llava_data(tmp_path)
    whole, parts = (tuned(tmp_path, METHODS[name], *sizes) for sizes in ((4, 1), (1, 4)))
    start = tiny_llava_with_processor()[0].state_dict()
    assert any((whole[key] - start[key]).abs().max() > 1e-3 for key in start)
    for key in start:
        assert torch.allclose(whole[key], parts[key], atol=1e-6, rtol=0), key
