"""adapt end to end: each method, the folder it leaves, and what it refuses to leave."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import mixed_conversations, run_config, write_llava_data
from textanchor.errors import ConfigError, DataError, HoldError, ModelError, TextanchorError
from textanchor.holds import Anchor, fit_anchor
from textanchor.methods.app import read_texts
from textanchor.records import RunRecord
from textanchor.training import export
from textanchor.training.adapt import AdaptResult, adapt
from textanchor.training.checkpoints import workspace_of
from textanchor.training.curve import CheckpointScorer, log_spaced_steps
from textanchor.training.drift import DriftRecorder
from textanchor.training.features import FeatureStore
from textanchor.training.sequences import encode

APP: dict[str, Any] = {
    "name": "app",
    "projector": {"mode": "inputs", "kept_fraction": 0.3},
    "language_model": {"mode": "inputs", "kept_fraction": 0.5},
    "num_texts": 8,
    "reference": {"task": "existence", "num_images": 16},
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "lora": {"name": "lora"},
    "l2sp": {"name": "l2sp", "strength": 0.1},
    "app": APP,
    "app_outputs": {"name": "app", "projector": {"mode": "outputs", "num_kept": 8, "hold": "share"}, "num_texts": 8},
    "app_penalty": {"name": "app", "projector": {"mode": "outputs", "num_kept": 8, "hold": "penalty"}, "num_texts": 8},
}
FULL_LANGUAGE_MODEL = {"train": "full", "learning_rate": 1e-3}


def run(output: Path, method: dict[str, Any], callbacks: Any = (), **changes: Any) -> AdaptResult:
    changes = ({"parts": None} if method["name"] == "lora" else {}) | changes
    model, processor = tiny_llava_with_processor()
    return adapt(run_config(output, method=method, **changes), model=model, processor=processor, callbacks=callbacks)


def first_logits(model: Any, processor: Any) -> torch.Tensor:
    example = encode(mixed_conversations()[0], processor)
    inputs = {"input_ids": example.input_ids_L[None], **example.visual_inputs}
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("name", METHODS)
def test_the_output_loads_with_transformers_alone_and_is_the_trained_model(name: str, tmp_path: Path) -> None:
    result = run(tmp_path / "out", METHODS[name])
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert type(model).__module__.startswith("transformers.")
    assert torch.equal(first_logits(model, processor), first_logits(result.model, result.processor))
    start = tiny_llava_with_processor()[0].state_dict()
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, start[key])}
    frozen = {tensor.name for tensor in result.audit.tensors if tensor.rule == "frozen"}
    assert moved == {tensor.name for tensor in result.audit.tensors} - frozen
    assert not workspace_of(tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_records_say_what_was_done(tmp_path: Path) -> None:
    result = run(tmp_path / "out", METHODS["app"])
    record = RunRecord.load(tmp_path / "out" / "run.json")
    assert (record.name, record.method, record.seed) == ("out", "app", 0)
    assert [entry["step"] for entry in record.extra["loss"]] == [1, 2, 4, 6]
    assert record.extra["trained_parameters"]["vision_tower"] == 0
    assert record.extra["label_only_logits"] is True
    assert record.cost["tokens"] > 0
    assert record.hashes.keys() == {"model", "data", "tuned"}
    assert record.config["parts"]["language_model"]["alpha"] == 8.0
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit["reload_max_difference"] <= 1e-5
    assert audit["trained_not_saved"] == audit["other_tensors_changed"] == []
    rows = {row["name"]: row for row in audit["tensors"]}
    held = rows["model.multi_modal_projector.linear_1.weight"]
    assert held["rule"] == "exact"
    assert held["weight_leak"] <= held["weight_leak_bound"] < 1e-2 < held["relative_update"]
    assert held["function_leak"] < 1e-3
    assert rows["model.language_model.layers.1.mlp.down_proj.weight"]["rule"] == "exact"
    assert "largest leak" in str(result)


def test_the_saved_folder_loads_in_a_new_process_without_us(tmp_path: Path) -> None:
    result = run(tmp_path / "out", METHODS["full"])
    code = (
        "import sys, torch\nfrom transformers import AutoModelForImageTextToText as M\n"
        f"m = M.from_pretrained({str(tmp_path / 'out')!r})\n"
        "assert not any(n.split('.')[0] in ('textanchor', 'peft') for n in sys.modules if n == 'textanchor')\n"
        "with torch.no_grad(): print(m(input_ids=torch.arange(4, 24)[None]).logits.double().sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with torch.no_grad():
        expected = result.model(input_ids=torch.arange(4, 24)[None]).logits.double().sum().item()
    assert float(done.stdout) == pytest.approx(expected, abs=1e-4)


def test_full_training_of_the_language_model_is_held_too(tmp_path: Path) -> None:
    result = run(tmp_path / "out", APP, parts__language_model=FULL_LANGUAGE_MODEL)
    rows = {tensor.name: tensor for tensor in result.audit.tensors}
    for name in ("self_attn.q_proj", "mlp.down_proj"):
        row = rows[f"model.language_model.layers.0.{name}.weight"]
        assert row.rule == "exact"
        assert row.weight_leak is not None
        assert row.weight_leak_bound is not None
        assert row.weight_leak <= row.weight_leak_bound < 1e-2
        assert row.relative_update > 1e-3
    assert rows["model.language_model.embed_tokens.weight"].rule == "frozen"
    assert rows["model.language_model.norm.weight"].rule == "frozen"


def test_a_hold_that_was_broken_is_an_error(tmp_path: Path) -> None:
    class Meddler(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            with torch.no_grad():
                model.get_base_model().model.multi_modal_projector.linear_2.weight.add_(0.01)

    with pytest.raises(HoldError, match="something wrote to it"):
        run(tmp_path / "out", APP, [Meddler()])
    assert list(tmp_path.iterdir()) == []


def test_a_saved_anchor_takes_the_place_of_texts_and_images(tmp_path: Path) -> None:
    model, processor = tiny_llava_with_processor()
    anchor = fit_anchor(model, processor, read_texts(None, 8))
    anchor.save(tmp_path / "anchor")
    method = {"name": "app", "language_model": APP["language_model"], "anchor": str(tmp_path / "anchor")}
    method["reference"] = {"task": "existence", "num_images": 4}
    result = run(tmp_path / "out", method)
    assert result.plan is not None
    assert result.audit.projector is not None
    assert result.audit.projector["relative_change"] > 0
    Anchor(anchor.moments, anchor.aliases, {**anchor.provenance, "model_hash": "x"}).save(tmp_path / "other")
    with pytest.raises(HoldError, match="another model"):
        run(tmp_path / "out2", method | {"anchor": str(tmp_path / "other")})
    assert not (tmp_path / "out2").exists()


def test_several_images_turns_and_texts_without_images_train_from_a_file(tmp_path: Path) -> None:
    data = write_llava_data(tmp_path)
    changes = {"data": {"path": str(data)}, "training__max_steps": 40, "training__logging_steps": 10}
    changes |= {"parts__language_model": {"train": "full", "learning_rate": 1e-2}}
    result = run(tmp_path / "out", METHODS["full"], **changes)
    losses = [entry["loss"] for entry in result.record.extra["loss"]]
    assert losses[-1] < 0.7 * losses[0]


def test_texts_alone_train_a_vision_language_model(tmp_path: Path) -> None:
    said = [("user", "Say it"), ("assistant", "it")]
    rows = [{"messages": [{"role": role, "content": f"{text} {n}"} for role, text in said]} for n in "abcd"]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(
        tmp_path / "out", METHODS["full"], data={"path": str(tmp_path / "text.jsonl")}, training__weight_decay=0.0
    )
    moved = {tensor.name for tensor in result.audit.tensors if tensor.relative_update > 0}
    assert moved
    assert not any("projector" in name for name in moved)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_kept_features_give_the_same_run(precision: str, tolerance: float, tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", METHODS["full"], training__precision=precision)
    kept = run(tmp_path / "kept", METHODS["full"], training__precision=precision, training__cache_features=True)
    start = tiny_llava_with_processor()[0].state_dict()
    assert any((plain.model.state_dict()[name] - start[name]).abs().max() > 2e-2 for name in start)
    for name, tensor in plain.model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.allclose(kept.model.state_dict()[name], tensor, atol=tolerance), name


def test_a_store_of_features_that_is_not_used_is_an_error(tmp_path: Path) -> None:
    model, processor = tiny_llava_with_processor()
    with pytest.raises(ConfigError, match="cache_features"):
        adapt(run_config(tmp_path / "out"), model=model, processor=processor, features=FeatureStore())


def test_a_frozen_tower_learns_nothing_and_does_not_drop_out(tmp_path: Path) -> None:
    class Watcher(TrainerCallback):
        modes: ClassVar[set[bool]] = set()

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.modes |= {module.training for module in model.get_base_model().model.vision_tower.modules()}

    run(tmp_path / "out", METHODS["full"], [Watcher()])
    assert Watcher.modes == {False}


def test_curve_and_drift_are_recorded_without_changing_the_run(tmp_path: Path) -> None:
    held = run(tmp_path / "held", APP)
    steps = log_spaced_steps(6, 3)
    assert steps == [0, 1, 2, 6]

    def score(model: Any, processor: Any) -> dict[str, Any]:
        assert not model.training
        torch.rand(3)
        return {"norm": float(model.get_base_model().model.multi_modal_projector.linear_2.weight.norm())}

    plain = run(tmp_path / "plain", METHODS["full"])
    watched = run(
        tmp_path / "watched", METHODS["full"], [CheckpointScorer(steps, score), DriftRecorder(steps, held.plan)]
    )
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(watched.model.state_dict()[name], tensor), name
    curve, drift = watched.record.extra["curve"], watched.record.extra["drift"]
    assert [entry["step"] for entry in curve] == [entry["step"] for entry in drift] == steps
    assert curve[0]["norm"] != curve[-1]["norm"]
    assert drift[0]["parts"]["projector"] == {"protected": 0.0, "free": 0.0, "relative_norm": 0.0}
    for part in ("projector", "language_model"):
        last = drift[-1]["parts"][part]
        assert last["protected"] > 0.05 * last["relative_norm"]
        assert last["protected"] ** 2 + last["free"] ** 2 == pytest.approx(last["relative_norm"] ** 2, rel=1e-4)
    audited = {tensor.name: tensor.relative_update for tensor in watched.audit.tensors}
    assert 0 < drift[-1]["parts"]["projector"]["relative_norm"] < max(audited.values())


def test_the_drift_of_a_held_run_is_free(tmp_path: Path) -> None:
    recorder = DriftRecorder([6])  # measures by the plan of the run's own method
    run(tmp_path / "held", APP, [recorder])
    parts = recorder.record()[0]["parts"]
    assert all(entry["protected"] < 1e-5 < entry["free"] for entry in parts.values())


def test_a_tensor_that_save_pretrained_leaves_out_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_class = type(tiny_llava_with_processor()[0])
    save = model_class.save_pretrained

    def forgetful(self: Any, folder: Path, **keywords: Any) -> None:
        tensors = self.state_dict()
        tensors["model.multi_modal_projector.linear_2.weight"] = torch.zeros_like(self.lm_head.weight[:32])
        save(self, folder, state_dict=tensors, **keywords)

    monkeypatch.setattr(model_class, "save_pretrained", forgetful)
    with pytest.raises(ModelError, match=r"1 tensors .* \(model\.multi_modal_projector\.linear_2\.weight\)"):
        run(tmp_path / "out", METHODS["full"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("field", "words"), [("reload_max_difference", "differ by"), ("merge_max_difference", "LoRA")])
def test_logits_that_come_back_different_are_an_error(field: str, words: str, tmp_path: Path) -> None:
    good = export.ReloadCheck(
        reload_max_difference=9e-6, merge_max_difference=9e-5, trained_not_saved=(), other_tensors_changed=()
    )
    good.require(tmp_path, 1.0)
    check = dataclasses.replace(good, **{field: 2e-4})
    with pytest.raises(ModelError, match=words):
        check.require(tmp_path, 1.0)


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"data": {"task": "wordz", "num_images": 2}}, ConfigError, "wordz"),
        ({"data": {"path": "nowhere.json"}}, DataError, "nowhere.json"),
        ({"training__report_to": ["no_such_tracker"]}, ConfigError, "no_such_tracker"),
        ({"data__max_tokens": 10}, DataError, "more than the 10 allowed"),
        ({"parts__projector": {"train": "frozen"}, "method": APP}, ConfigError, "parts.projector.train: frozen"),
        ({"training__cache_features": True, "parts__vision_tower": {"train": "lora"}}, ConfigError, "cache_features"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    changes: dict[str, Any], error: type[TextanchorError], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=expected):
        run(tmp_path / "out", changes.pop("method", METHODS["full"]), **changes)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_with_content_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(TextanchorError, match="not empty"):
        run(tmp_path / "out", METHODS["full"])


class Breaks(TrainerCallback):
    """Makes the first trained weight `value` in the last step, as an update beyond the range of its type does."""

    def __init__(self, value: float):
        self.value = value

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == state.max_steps - 1:
            next(p for p in model.parameters() if p.requires_grad).data.view(-1)[0] = self.value


@pytest.mark.parametrize("saved", [False, True], ids=["", "with a checkpoint of it"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["full", "lora", "app"])
def test_a_last_step_that_breaks_the_weights_is_not_written(
    name: str, value: float, saved: bool, tmp_path: Path
) -> None:
    changes = {"training__save_steps": 6} if saved else {}
    with pytest.raises(
        ModelError, match=r"NaN or infinite after step 6; lower the learning rates \((projector|language_model) "
    ):
        run(tmp_path / "out", METHODS[name], callbacks=[Breaks(value)], **changes)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("out.checkpoints/*/textanchor.json"))


@pytest.mark.parametrize("part", ["projector", "language_model"])
def test_a_last_step_whose_weights_are_finite_and_useless_is_not_written(part: str, tmp_path: Path) -> None:
    other = {"projector": "language_model", "language_model": "projector"}[part]
    train = {"train": "full" if part == "projector" else "lora", "learning_rate": 1e30}
    changes = {f"parts__{part}": train, f"parts__{other}": {"train": "frozen"}}
    steps = {"max_steps": 1, "batch_size": 4, "warmup": 0.0, "scheduler": "constant"}
    with pytest.raises(ModelError, match=rf"NaN or infinite.*lower the learning rates \({part} 1e\+30\)"):
        run(tmp_path / "out", METHODS["full"], training=steps, **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    changes = {"parts__projector": {"train": "full", "learning_rate": 1e30}, "training__max_grad_norm": None}
    with pytest.raises(ModelError, match="lower the learning rates"):
        run(tmp_path / "out", METHODS["full"], **changes)
