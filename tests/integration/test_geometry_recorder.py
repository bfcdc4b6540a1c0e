"""The geometry of the projector during a run: nothing before the first step, known angles, the drift's own norms."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import picture, run_config
from textanchor.errors import DataError
from textanchor.geometry import principal_directions
from textanchor.training.adapt import adapt
from textanchor.training.drift import DriftRecorder
from textanchor.training.geometry_drift import GeometryRecorder
from textanchor.training.trainable import set_up_training
from textanchor.training.updates import StartWeights

IMAGES = [picture(seed) for seed in range(6)]
TEXTS = ["a red ring", "a blue star beside a green cross", "Where is it?"]


def recorder(*steps: int, **options: Any) -> GeometryRecorder:
    return GeometryRecorder(steps, IMAGES, texts=TEXTS, **options)


def begun(found: GeometryRecorder, tmp_path: Path) -> Any:
    """Start the recorder on a tiny model whose projector is trained in full; the model."""
    model, processor = tiny_llava_with_processor(dtype=torch.float32)
    config = run_config(tmp_path / "out", parts__language_model={"train": "frozen"})
    parts = set_up_training(model, config.trained_parts, seed=0)
    session: Any = SimpleNamespace(parts=parts, model=parts.model, processor=processor, start=StartWeights(parts))
    found.on_run_begin(session, None)
    return model


def test_before_the_first_step_nothing_has_moved(tmp_path: Path) -> None:
    found = recorder(0, num_directions=4)
    begun(found, tmp_path)
    entry = found.measure(0)
    assert entry["coupling"] == 0 and entry["coupling_share"] is None
    assert entry["relative_update"] == {"projector": 0}
    assert entry["cka"] == pytest.approx(1, abs=1e-9) and entry["norm_ratio"] == pytest.approx(1)
    assert entry["angle_max"] == pytest.approx(0, abs=1e-4)
    assert entry["function_drift"] == entry["function_drift_normalised"] == 0


@pytest.mark.parametrize("degrees", [1.0, 20.0, 75.0])
def test_a_subspace_moved_by_hand_shows_its_angle(tmp_path: Path, degrees: float) -> None:
    found = recorder(0, num_directions=2)
    model = begun(found, tmp_path)
    directions_DK = principal_directions(found.start_ND, 5).float()
    first_D, away_D, angle = directions_DK[:, 0], directions_DK[:, 4], math.radians(degrees)
    plane_D2 = torch.stack([first_D, away_D], dim=1)
    turn_22 = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    rotation_DD = torch.eye(32) + plane_D2 @ (turn_22 - torch.eye(2)) @ plane_D2.T
    last = model.model.multi_modal_projector.linear_2
    last.weight.data = rotation_DD @ last.weight.data
    last.bias.data = rotation_DD @ last.bias.data
    entry = found.measure(1)
    assert entry["angle_max"] == pytest.approx(degrees, abs=0.05)
    assert entry["angle_mean"] == pytest.approx(degrees / 2, abs=0.05)
    assert entry["cka"] == pytest.approx(1, abs=1e-5), "a rotated copy is the same to CKA"
    assert entry["norm_ratio"] == pytest.approx(1, abs=1e-5) and entry["function_drift"] > 0


def test_coupling_is_the_part_between_the_two_subspaces(tmp_path: Path) -> None:
    found = recorder(0, num_directions=3)
    last = begun(found, tmp_path).model.multi_modal_projector.linear_2
    assert found.inputs_IK is not None
    start_norm = float(last.weight.detach().norm())
    inside = (found.text_DK[:, :1] @ found.inputs_IK[:, 1:2].T).float()
    last.weight.data += 0.5 * inside
    entry = found.measure(1)
    assert entry["coupling"] == pytest.approx(0.5 / start_norm, rel=1e-4)
    assert entry["coupling_share"] == pytest.approx(1, abs=1e-4)
    outside_I = torch.linalg.svd(found.inputs_IK.T, full_matrices=True).Vh[-1].float()
    last.weight.data += torch.outer(found.text_DK[:, 0].float(), 0.5 * outside_I)
    assert found.measure(1)["coupling_share"] == pytest.approx(math.sqrt(0.5), abs=1e-4)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_run_is_recorded_at_its_steps(tmp_path: Path, train: str) -> None:
    model, processor = tiny_llava_with_processor()
    part = {"train": train, "learning_rate": 1e-2} | ({"rank": 4} if train == "lora" else {})
    drift, geometry = DriftRecorder([0, 2, 6]), recorder(0, 2, 6, num_directions=4)
    config = run_config(tmp_path / "out", parts__projector=part, method={"name": "full" if train == "full" else "lora"})
    result = adapt(config, model=model, processor=processor, callbacks=[drift, geometry])
    entries = result.record.extra["geometry"]
    assert [entry["step"] for entry in entries] == [0, 2, 6]
    for entry, moved in zip(entries, drift.entries, strict=True):
        for name, value in entry["relative_update"].items():
            assert value == pytest.approx(moved["parts"][name]["relative_norm"], rel=1e-6)
    assert entries[-1]["function_drift"] > entries[1]["function_drift"] > 0
    assert 0 < entries[-1]["coupling_share"] < 1


def test_too_few_held_out_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="16 visual tokens"):
        begun(GeometryRecorder([0], IMAGES[:1], texts=TEXTS), tmp_path)
