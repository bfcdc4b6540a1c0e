"""A run that was cut off and resumed ends in the same bits, and its holds count from the original base."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import run_config, write_llava_data
from textanchor.errors import ConfigError, HoldError
from textanchor.methods import METHODS
from textanchor.training.adapt import AdaptResult, adapt
from textanchor.training.checkpoints import MARKER, workspace_of
from textanchor.training.curve import CheckpointScorer
from textanchor.training.drift import DriftRecorder
from textanchor.vlm import precision as precision_module

APP: dict[str, Any] = {
    "name": "app",
    "projector": {"mode": "inputs", "kept_fraction": 0.3},
    "language_model": {"mode": "inputs", "kept_fraction": 0.5},
    "num_texts": 8,
    "reference": {"task": "existence", "num_images": 16},
}
SHARE: dict[str, Any] = {
    "name": "app",
    "projector": {"mode": "outputs", "num_kept": 8, "hold": "share", "inner": "frozen"},
    "num_texts": 8,
}
PENALTY: dict[str, Any] = {
    "name": "app",
    "projector": {"mode": "outputs", "num_kept": 8, "hold": "penalty"},
    "num_texts": 8,
}
OLD: dict[str, Any] = {"tasks": ["color"], "num_images": 4}
FULL: dict[str, Any] = {"train": "full", "learning_rate": 1e-3}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({"name": "full"}, {}),
    "lora": ({"name": "lora"}, {"parts__projector": {"train": "lora", "learning_rate": 1e-2}}),
    "frozen_projector": ({"name": "frozen_projector"}, {"parts__projector": {"train": "frozen"}}),
    "attention_only": ({"name": "attention_only"}, {"parts": None}),
    "l2sp": ({"name": "l2sp", "strength": 1.0}, {}),
    "ewc": ({"name": "ewc", "strength": 10.0, "num_texts": 4}, {}),
    "ewc_kfac": ({"name": "ewc", "strength": 10.0, "fisher": "kfac", "old": OLD}, {}),
    "lwf": ({"name": "lwf"}, {}),
    "replay": ({"name": "replay", "old": OLD}, {}),
    "wise_ft": ({"name": "wise_ft", "alpha": 0.3}, {}),
    "norm_matched": ({"name": "norm_matched", "relative_norm": 0.05}, {}),
    "osf": ({"name": "osf", "project": "gradient"}, {"parts__projector": FULL, "parts__language_model": FULL}),
    "osf_step": ({"name": "osf", "project": "step"}, {"parts__projector": FULL, "parts__language_model": FULL}),
    "corda": ({"name": "corda", "num_texts": 4}, {}),
    "lora_null": ({"name": "lora_null", "num_texts": 4}, {}),
    "lorasculpt": ({"name": "lorasculpt"}, {}),
    "app": (APP, {}),
    "app_share": (SHARE, {}),
    "app_penalty": (PENALTY, {}),
    "app_writers": ({"name": "app", "language_model": {"mode": "outputs", "num_kept": 8}, "num_texts": 8}, {}),
}
"""Method and changes of the run; two forms of one method where they keep different things."""


class Killed(BaseException):
    """Ends the process as far as the run can tell."""


class KillAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def config(output: Path, method: dict[str, Any], **changes: Any) -> Any:
    return run_config(output, method=method, training__save_steps=2, training__accumulation=2, **changes)


def run(output: Path, method: dict[str, Any], *callbacks: Any, resume: bool = False, **changes: Any) -> AdaptResult:
    model, processor = tiny_llava_with_processor()
    return adapt(
        config(output, method, **changes), model=model, processor=processor, callbacks=callbacks, resume=resume
    )


def recorders() -> tuple[Any, ...]:
    return CheckpointScorer([0, 1, 4, 6], lambda model, _: {"loss": 0.0}), DriftRecorder([0, 1, 4, 6])


def test_every_method_that_trains_is_resumed_here() -> None:
    assert {method["name"] for method, _ in RUNS.values()} == METHODS.keys() - {"zero_shot"}


@pytest.mark.parametrize("name", RUNS)
def test_killed_and_resumed_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    method, changes = RUNS[name]
    whole = run(tmp_path / "whole", method, *recorders(), **changes)
    with pytest.raises(Killed):
        run(tmp_path / "cut", method, *recorders(), KillAt(5), **changes)
    assert not (tmp_path / "cut").exists()
    resumed = run(tmp_path / "cut", method, *recorders(), resume=True, **changes)
    start = tiny_llava_with_processor()[0].state_dict()
    assert any(not torch.equal(tensor, start[key]) for key, tensor in whole.model.state_dict().items())
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], tensor), key
    assert resumed.audit.tensors == whole.audit.tensors
    for key in ("loss", "curve", "drift"):
        assert resumed.record.extra[key] == whole.record.extra[key], key
    assert resumed.record.cost["tokens"] == whole.record.cost["tokens"]
    assert not workspace_of(tmp_path / "cut").exists()


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """Output folder of a run that was killed after its checkpoints of steps 2 and 4."""
    with pytest.raises(Killed):
        run(tmp_path / "cut", APP, KillAt(5))
    return tmp_path / "cut"


def test_the_plan_of_the_start_is_taken_up(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refit(*_: Any, **__: Any) -> None:
        raise AssertionError("the anchor was fitted again")

    monkeypatch.setattr("textanchor.methods.app.fit_anchor", refit)
    assert run(cut, APP, resume=True).plan is not None


def test_an_interrupted_run_is_not_started_anew_by_mistake(cut: Path) -> None:
    with pytest.raises(ConfigError, match="interrupted run left checkpoint-4"):
        run(cut, APP)


def test_a_checkpoint_that_was_cut_off_is_passed_over(cut: Path) -> None:
    (workspace_of(cut) / "checkpoint-4" / MARKER).unlink()
    result = run(cut, APP, resume=True)
    assert result.record.extra["loss"][-1]["step"] == 6


def test_a_resumed_run_keeps_its_precision(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine, or what else runs there, may have changed; the promise is equal bits."""
    marker = next(workspace_of(cut).glob(f"*/{MARKER}"))
    first = json.loads(marker.read_text())["precision"]
    speeds = {"float32": 1.0, "bfloat16": 1.0, {"float32": "bfloat16", "bfloat16": "float32"}[first]: 9.0}
    monkeypatch.setattr(precision_module, "product_speeds", lambda device, shapes: speeds)
    result = run(cut, APP, resume=True)
    assert result.record.extra["precision"]["used"] == first
    assert result.record.extra["precision"]["asked"] == "auto"


def test_another_configuration_is_not_resumed(cut: Path) -> None:
    with pytest.raises(ConfigError, match=r"another configuration \(training\.seed: 0 then, 1 now\)"):
        run(cut, APP, resume=True, training__seed=1)


def test_logging_may_change(cut: Path) -> None:
    assert run(cut, APP, resume=True, training__logging_steps=3).record.extra["loss"][-1]["step"] == 6


def test_other_starting_weights_are_not_resumed(cut: Path) -> None:
    model, processor = tiny_llava_with_processor(seed=1)
    with pytest.raises(ConfigError, match="another model"):
        adapt(config(cut, APP), model=model, processor=processor, resume=True)


def test_other_data_is_not_resumed(tmp_path: Path) -> None:
    data = write_llava_data(tmp_path)
    with pytest.raises(Killed):
        run(tmp_path / "cut", {"name": "full"}, KillAt(5), data={"path": str(data)})
    data.write_text(data.read_text().replace("star", "moon"))
    with pytest.raises(ConfigError, match="another content of its data"):
        run(tmp_path / "cut", {"name": "full"}, resume=True, data={"path": str(data)})


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        run(tmp_path / "out", APP, resume=True)


def test_a_lost_reference_is_an_error(cut: Path) -> None:
    (workspace_of(cut) / "checkpoint-4" / "holds.safetensors").unlink()
    with pytest.raises(HoldError, match=r"holds\.safetensors"):
        run(cut, APP, resume=True)
    assert (workspace_of(cut) / "checkpoint-4").is_dir()


def test_a_checkpoint_holds_every_trained_tensor(cut: Path) -> None:
    saved = load_file(workspace_of(cut) / "checkpoint-4" / "trained.safetensors")
    assert any("multi_modal_projector" in name for name in saved)
    assert any("lora_A" in name for name in saved)
    assert json.loads((workspace_of(cut) / "checkpoint-4" / MARKER).read_text())["records"].keys() == {"tokens"}
    shutil.rmtree(workspace_of(cut))
