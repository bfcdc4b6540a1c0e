"""A run that was cut off and resumed ends in the same bits, and its holds count from the original base."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import run_config, write_llava_data
from textanchor.errors import ConfigError, DataError, OutputError
from textanchor.files import sha256_of_file, write_sealed_json
from textanchor.methods import METHODS
from textanchor.training.adapt import AdaptResult, adapt
from textanchor.training.checkpoints import MARKER, read_marker, workspace_of
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


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that was killed after its checkpoints of steps 2 and 4 left."""
    output = tmp_path_factory.mktemp("killed") / "cut"
    with pytest.raises(Killed):
        run(output, APP, KillAt(5))
    return workspace_of(output)


@pytest.fixture
def cut(checkpoints: Path, tmp_path: Path) -> Path:
    """Output folder of that run, in a copy of its own."""
    shutil.copytree(checkpoints, workspace_of(tmp_path / "cut"))
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


def removed(file: Path) -> None:
    file.unlink()


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def one_bit_turned(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


STATE = {
    "checkpoint-4/holds.safetensors": removed,
    "checkpoint-4/optimizer.pt": removed,
    "checkpoint-4/rng_state.pth": removed,
    "checkpoint-4/scheduler.pt": one_bit_turned,
    "checkpoint-4/trained.safetensors": cut_short,
    "checkpoint-4/trainer_state.json": one_bit_turned,
    "method/plan/plan.json": one_bit_turned,
    "method/plan/plan.safetensors": cut_short,
}


@pytest.mark.parametrize("name", STATE)
def test_state_that_was_damaged_is_named_and_the_checkpoint_before_serves(cut: Path, name: str) -> None:
    STATE[name](workspace_of(cut) / name)
    what = "is missing" if STATE[name] is removed else "was changed since the checkpoint was written"
    with pytest.raises(DataError, match=rf"{name}: {what}.*remove .*checkpoint-4 to resume from an earlier"):
        run(cut, APP, resume=True)
    shutil.rmtree(workspace_of(cut) / "checkpoint-4")
    if name.startswith("checkpoint-4"):
        assert run(cut, APP, resume=True).record.extra["loss"][-1]["step"] == 6


def test_every_file_of_a_checkpoint_is_accounted_for(cut: Path) -> None:
    workspace = workspace_of(cut)
    there = {path.relative_to(workspace).as_posix() for path in workspace.rglob("*") if path.is_file()}
    newest = {name for name in there if not name.startswith("checkpoint-2/")}
    marked = read_marker(workspace / "checkpoint-4")["files"].keys()
    assert marked | {f"checkpoint-4/{MARKER}"} == newest
    assert marked >= STATE.keys()


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "3",
        "{",
        json.dumps({"config": {}, "model": "", "data": "", "records": {}, "files": {}}),
        json.dumps({"files": {}, "seal": "0" * 64}),
    ],
)
def test_a_marker_that_was_changed_is_named(cut: Path, content: str) -> None:
    (workspace_of(cut) / "checkpoint-4" / MARKER).write_text(content)
    with pytest.raises(DataError, match=r"checkpoint-4/textanchor\.json"):
        run(cut, APP, resume=True)


def test_code_in_the_trainer_s_state_is_refused_unrun(cut: Path, tmp_path: Path) -> None:
    """Whoever can write the folder can also write its checksums; a pickle is still not allowed to run."""

    class Planted:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    checkpoint = workspace_of(cut) / "checkpoint-4"
    torch.save({"state": Planted()}, checkpoint / "optimizer.pt")
    marker = read_marker(checkpoint)
    marker["files"]["checkpoint-4/optimizer.pt"] = sha256_of_file(checkpoint / "optimizer.pt")
    write_sealed_json(checkpoint / MARKER, marker)
    with pytest.raises(DataError, match=r"checkpoint-4: optimizer\.pt.*could run any code, so it is refused"):
        run(cut, APP, resume=True)
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_names_the_checkpoint_that_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Trainer._save_optimizer_and_scheduler

    def full(trainer: Trainer, folder: str) -> None:
        if folder.endswith("checkpoint-4"):
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
        saved(trainer, folder)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(OutputError, match=r"checkpoint-4: cannot be written .*; .*checkpoint-2 is kept, and the run"):
        run(tmp_path / "cut", {"name": "full"})
    assert [path.name for path in workspace_of(tmp_path / "cut").iterdir()] == ["checkpoint-2"]
    monkeypatch.undo()
    assert run(tmp_path / "cut", {"name": "full"}, resume=True).record.extra["loss"][-1]["step"] == 6


@pytest.mark.parametrize("name", ["full", "lora", "app", "ewc", "wise_ft", "norm_matched", "osf"])
def test_killed_after_the_last_step_no_further_one_is_taken(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five steps are two passes of two steps and half a third one, in whose middle the Trainer would go on."""
    method, changes = RUNS[name]
    changes = changes | {"training__max_steps": 5}
    whole = run(tmp_path / "whole", method, *recorders(), **changes)

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr("textanchor.training.adapt._written", killed)
    with pytest.raises(Killed):
        run(tmp_path / "cut", method, *recorders(), **changes)
    monkeypatch.undo()
    resumed = run(tmp_path / "cut", method, *recorders(), resume=True, **changes)
    assert resumed.record.extra["loss"] == whole.record.extra["loss"]
    assert resumed.record.extra["drift"] == whole.record.extra["drift"]
    assert resumed.audit.tensors == whole.audit.tensors
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], tensor), key


def test_a_checkpoint_holds_every_trained_tensor(cut: Path) -> None:
    saved = load_file(workspace_of(cut) / "checkpoint-4" / "trained.safetensors")
    assert any("multi_modal_projector" in name for name in saved)
    assert any("lora_A" in name for name in saved)
    assert json.loads((workspace_of(cut) / "checkpoint-4" / MARKER).read_text())["records"].keys() == {"tokens"}
    shutil.rmtree(workspace_of(cut))
