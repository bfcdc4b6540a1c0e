"""Repairing tuned models: what is taken back is what the plan says, and the result loads with Transformers alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import textanchor as ta
from helpers.html_reading import read_html
from helpers.tiny_chat import tiny_chat_model
from helpers.tiny_models import tiny_vlm
from textanchor.cli import main
from textanchor.config import from_dict
from textanchor.repairs import validate
from textanchor.repairs.validate import SweepPoint, Validation, best
from textanchor.vlm.loading import load_model

PROJECTOR = "model.multi_modal_projector.linear_2.weight"
WRITER = "model.language_model.layers.1.mlp.down_proj.weight"
QUERY = "model.language_model.layers.0.self_attn.q_proj.weight"
NORM = "model.language_model.norm.weight"
HELD: dict[str, Any] = {"language_model": {"mode": "inputs", "num_kept": 8}, "num_texts": 10}


def plan(**values: Any) -> ta.RepairPlan:
    return from_dict(ta.RepairPlan, values)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    model, processor = tiny_chat_model("llava")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another projector, another writer, another query and another norm."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("tuned")
    model, processor = tiny_chat_model("llava")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in (PROJECTOR, WRITER, QUERY, NORM):
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """As Transformers loads them."""
    return type(tiny_chat_model("llava")[0]).from_pretrained(folder, dtype="auto").state_dict()


def test_interpolation_is_part_by_part_and_streamed(base: Path, tuned: Path, tmp_path: Path) -> None:
    report = ta.repair(tuned, base, tmp_path / "out", plan=plan(interpolate={"projector": 0.25, "language_model": 1.0}))
    old, new, got = weights(base), weights(tuned), weights(tmp_path / "out")
    torch.testing.assert_close(got[PROJECTOR], old[PROJECTOR] + 0.25 * (new[PROJECTOR] - old[PROJECTOR]))
    assert all(torch.equal(got[name], new[name]) for name in new if name != PROJECTOR)
    assert report.record["way"] == "shard by shard"
    left = {row.name: row.change_left / row.change for row in report.tensors}
    assert left.keys() == {PROJECTOR, WRITER, QUERY, NORM}
    assert left[PROJECTOR] == pytest.approx(0.25, abs=1e-3) and left[WRITER] == 1.0


def test_strength_lies_between_the_tuned_model_and_the_plan(base: Path, tuned: Path, tmp_path: Path) -> None:
    half = plan(interpolate={"projector": 0.0})
    for strength in (0.0, 0.3, 1.0):
        ta.repair(tuned, base, tmp_path / str(strength), plan=half, strength=strength)
        old, new, got = weights(base), weights(tuned), weights(tmp_path / str(strength))
        torch.testing.assert_close(got[PROJECTOR], torch.lerp(new[PROJECTOR], old[PROJECTOR], strength))
        assert torch.equal(got[WRITER], new[WRITER])


def test_without_a_plan_half_of_every_change_stays(base: Path, tuned: Path, tmp_path: Path) -> None:
    ta.repair(tuned, base, tmp_path / "out")
    old, new, got = weights(base), weights(tuned), weights(tmp_path / "out")
    for name in new:
        torch.testing.assert_close(got[name], (old[name] + new[name]) / 2)


def test_exact_hold_takes_the_protected_part_away_once(base: Path, tuned: Path, tmp_path: Path) -> None:
    held = {"mode": "inputs", "num_kept": 8, "hold": "exact"}
    report = ta.repair(tuned, base, tmp_path / "out", plan=plan(language_model=held, num_texts=20))
    old, new, got = weights(base), weights(tuned), weights(tmp_path / "out")
    # against the same anchor, by hand
    model, processor = ta.load_vlm(base)
    from textanchor.data.texts import read_texts
    from textanchor.spectral import input_basis

    anchor = ta.fit_anchor(model, processor, read_texts(None, 20))
    for name in (WRITER, QUERY):
        basis = input_basis(anchor[f"inputs/{name.removesuffix('.weight')}"], with_constant=False)
        kept_DK = basis.directions_DK[:, : basis.num_sinks + 8]
        change = (new[name] - old[name]).double()
        expected = change - change @ kept_DK @ kept_DK.T
        torch.testing.assert_close((got[name] - old[name]).double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(got[NORM], old[NORM]), "what the plan freezes goes back"
    assert torch.equal(got[PROJECTOR], new[PROJECTOR]), "a part without a filter stays"
    assert {row["name"] for row in report.audit} == {n.removesuffix(".weight") for n in (WRITER, QUERY)}
    assert all(row["protected_norm"] < 1e-5 for row in report.audit)
    assert report.record["way"] == "loaded models"

    ta.repair(tuned, base, tmp_path / "less", plan=plan(language_model=held, num_texts=20), strength=0.25)
    less = weights(tmp_path / "less")
    for name in (WRITER, QUERY, NORM):
        torch.testing.assert_close(less[name], new[name] + 0.25 * (got[name] - new[name]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("names", [("", "module."), ("multi_modal_projector.linear_", "model.mm_projector.")])
def test_names_that_no_library_loads_are_mended(
    names: tuple[str, str], base: Path, tuned: Path, tmp_path: Path
) -> None:
    odd = shutil.copytree(tuned, tmp_path / "odd")
    values = {n.replace(names[0], names[1], 1): t for n, t in load_file(odd / "model.safetensors").items()}
    save_file(values, odd / "model.safetensors", metadata={"format": "pt"})
    assert ta.diff(base, odd).is_lost
    ta.repair(odd, base, tmp_path / "out", plan=plan(interpolate={"language_model": 0.5}))
    new, got = weights(tuned), weights(tmp_path / "out")
    assert torch.equal(got[PROJECTOR], new[PROJECTOR])
    assert not ta.diff(base, tmp_path / "out").is_lost


def test_share_caps_and_interpolation_comes_first(base: Path, tuned: Path, tmp_path: Path) -> None:
    held = {"mode": "outputs", "num_kept": 8, "hold": "share", "share": 0.0}
    both = plan(projector=held, num_texts=20, interpolate={"projector": 0.5})
    ta.repair(tuned, base, tmp_path / "out", plan=both)
    exact = plan(projector=held | {"hold": "exact", "share": None}, num_texts=20)
    ta.repair(tuned, base, tmp_path / "exact", plan=exact)
    old, got, whole = weights(base), weights(tmp_path / "out"), weights(tmp_path / "exact")
    torch.testing.assert_close(got[PROJECTOR], (old[PROJECTOR] + whole[PROJECTOR]) / 2, rtol=0, atol=1e-6)


def test_an_adapter_is_merged_and_repaired(base: Path, tmp_path: Path) -> None:
    model, _ = tiny_chat_model("llava")
    model = get_peft_model(model, LoraConfig(r=4, target_modules=r".*language_model.*down_proj"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "adapter")
    ta.repair(tmp_path / "adapter", base, tmp_path / "out", plan=plan(interpolate={"language_model": 0.5}))
    old, got = weights(base), weights(tmp_path / "out")
    merged = model.merge_and_unload().state_dict()
    for name in old:
        torch.testing.assert_close(got[name], (old[name] + merged[name]) / 2, rtol=0, atol=1e-6)


def test_stored_types_stay(base: Path, tuned: Path, tmp_path: Path) -> None:
    """bfloat16 with one float32 tensor, through loaded models."""
    mixed = shutil.copytree(tuned, tmp_path / "mixed")
    values = {n: t if "multi_modal" in n else t.bfloat16() for n, t in load_file(mixed / "model.safetensors").items()}
    save_file(values, mixed / "model.safetensors", metadata={"format": "pt"})
    held = {"mode": "outputs", "num_kept": 4, "hold": "exact"}
    ta.repair(mixed, base, tmp_path / "out", plan=plan(projector=held, num_texts=10))
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: t.dtype for name, t in got.items()} == {name: t.dtype for name, t in values.items()}


def test_refusals_name_the_way_out(base: Path, tuned: Path, tmp_path: Path) -> None:
    def refused(folder: Path, message: str, **options: Any) -> None:
        with pytest.raises(ta.ModelError, match=message):
            ta.repair(folder, base, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists(), "nothing is left behind"

    quantised = shutil.copytree(tuned, tmp_path / "quantised")
    config = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    refused(quantised, r"says that the model is quantised .*, and its weights are not; remove that entry")
    with pytest.raises(ta.ModelError, match=rf"^{quantised}.*says that the model is quantised .*remove that entry"):
        ta.repair(tuned, quantised, tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing is left behind"

    model = get_peft_model(tiny_chat_model("llava")[0], LoraConfig(target_modules=["down_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    values = {name.replace("layers.0", "layers.7"): tensor for name, tensor in load_file(file).items()}
    save_file(values, file, metadata={"format": "pt"})
    refused(tmp_path / "adapter", r"PEFT finds no place for .*layers.7.* \(2 of its 4 tensors\)")

    spoiled = shutil.copytree(tuned, tmp_path / "spoiled")
    values = load_file(spoiled / "model.safetensors")
    values["multi_modal_projector.linear_2.weight"][0, 0] = float("nan")
    save_file(values, spoiled / "model.safetensors", metadata={"format": "pt"})
    refused(spoiled, r"linear_2.weight has entries that are NaN")
    held = {"mode": "outputs", "num_kept": 4, "hold": "exact"}
    refused(spoiled, r"linear_2.weight has entries that are NaN", plan=plan(projector=held, num_texts=10))

    save_file({n: t for n, t in values.items() if "linear_2" not in n}, spoiled / "model.safetensors")
    refused(spoiled, r"linear_2.* is missing \(2 tensors in all\)")
    refused(base, r"holds the base's weights, so there is nothing to repair")


@pytest.mark.parametrize("values", [{"interpolate": {"language_model": 0.5}}, HELD])
def test_a_head_that_came_apart_is_refused_and_one_that_was_never_tied_is_repaired(
    values: dict[str, Any], tmp_path: Path
) -> None:
    """A base that ties its head has no values of its own for it; one that does not has them."""

    def saved(name: str, *, is_tied: bool, shift: float) -> Path:
        model, processor = tiny_chat_model("llava")
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = is_tied
        embedding = model.get_input_embeddings().weight
        model.lm_head.weight = embedding if is_tied else torch.nn.Parameter(embedding.detach().clone())
        with torch.no_grad():
            model.lm_head.weight.add_(shift * torch.randn_like(embedding))
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        return tmp_path / name

    tied, untied = saved("tied", is_tied=True, shift=0.0), saved("untied", is_tied=False, shift=0.02)
    with pytest.raises(ta.ModelError, match=r"come apart from the input embedding.*tie them again, or repair a base"):
        ta.repair(untied, tied, tmp_path / "out", plan=plan(**values))
    assert not (tmp_path / "out").exists(), "nothing is left behind"
    ta.repair(untied, saved("free", is_tied=False, shift=0.0), tmp_path / "out", plan=plan(interpolate={"head": 0.5}))
    half = weights(tied)["lm_head.weight"].lerp(weights(untied)["lm_head.weight"], 0.5)
    torch.testing.assert_close(weights(tmp_path / "out")["lm_head.weight"], half)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "takes nothing back"),
        ({"interpolate": {"projektor": 0.5}}, "'projektor' is no part"),
        ({"interpolate": {"projector": 1.5}}, "between 0 and 1"),
        ({"projector": {"mode": "outputs", "num_kept": 4, "hold": "penalty"}}, "acts while a model is trained"),
        ({"projector": {"mode": "inputs", "num_kept": 4}}, "needs reference images"),
        ({"interpolate": {"projector": 0.5}, "num_texts": 3}, "num_texts has no effect"),
    ],
)
def test_plans_that_mean_nothing_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ta.ConfigError, match=message):
        plan(**values)


def test_state_dicts() -> None:
    old = {n: t.clone() for n, t in tiny_vlm("llava").state_dict().items()}
    new = {n: t + (0.1 if "projector" in n else 0.0) for n, t in old.items()}
    got = ta.repair_tensors(new, old, interpolate={"projector": 0.5})
    for name in old:
        torch.testing.assert_close(got[name], old[name] + (0.05 if "projector" in name else 0.0))
    with pytest.raises(ta.ConfigError, match="nothing is taken back"):
        ta.repair_tensors(new, old)
    with pytest.raises(ta.ModelError, match="no counterpart"):
        ta.repair_tensors(new | {"other": torch.ones(1)}, old, interpolate={"projector": 0.5})


def test_state_dicts_under_a_hold_plan() -> None:
    model = tiny_vlm("llava")
    old = {n: t.clone() for n, t in model.state_dict().items()}
    new = {n: t + 0.1 * torch.randn_like(t) if n == PROJECTOR else t for n, t in old.items()}
    parts = ta.find_parts(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == PROJECTOR)
    directions_DK = torch.linalg.qr(torch.randn(32, 5))[0]
    anchor = ta.Anchor({"text_embedding": ta.Anchor.from_states(torch.randn(200, 5) @ directions_DK.T)["states"]})
    holds = ta.plan_holds(parts, anchor, ta.FilterConfig(mode="outputs", num_kept=5))
    change = ta.repair_tensors(new, old, holds=holds)[PROJECTOR] - old[PROJECTOR]
    assert float((directions_DK.T @ change).norm()) < 1e-5 < float(change.norm())


def test_validation_draws_the_curve_and_takes_its_best(
    base: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real suites on a tiny model; the scores themselves are then set, to know which strength is best."""
    asked = Validation(learned=("digits",), kept=("shape",), strengths=(0.0, 0.5, 1.0), num_items=8)
    report = ta.repair(tuned, base, tmp_path / "real", validation=asked)
    assert [point.strength for point in report.sweep] == [0.0, 0.5, 1.0]
    assert report.strength == best(report.sweep).strength

    def known(model: Any, processor: Any, validation: Validation, set_strength: Any) -> tuple[SweepPoint, ...]:
        seen = []
        for strength in validation.strengths:
            set_strength(strength)
            seen.append(model.state_dict()[PROJECTOR].clone())
        torch.testing.assert_close(seen[1], (seen[0] + seen[2]) / 2)
        assert torch.equal(seen[0], weights(tuned)[PROJECTOR])
        return (SweepPoint(0.0, 0.8, 0.1), SweepPoint(0.5, 0.7, 0.7), SweepPoint(1.0, 0.1, 0.9))

    monkeypatch.setattr("textanchor.repairs.run.sweep", known)
    report = ta.repair(tuned, base, tmp_path / "out", plan=plan(interpolate={"projector": 0.0}), validation=asked)
    assert report.strength == 0.5
    old, new, got = weights(base), weights(tuned), weights(tmp_path / "out")
    torch.testing.assert_close(got[PROJECTOR], (old[PROJECTOR] + new[PROJECTOR]) / 2)
    elements = read_html((tmp_path / "out" / "repair.html").read_text())
    assert "Learning and retention" in [e.text for e in elements if e.tag == "h2"]
    assert json.loads((tmp_path / "out" / "repair.json").read_text())["sweep"][1]["h_mean"] == pytest.approx(0.7)


def test_the_best_point_has_the_largest_h_mean() -> None:
    points = [SweepPoint(0.0, 0.9, 0.1), SweepPoint(0.5, 0.6, 0.6), SweepPoint(1.0, 0.6, 0.6)]
    assert best(points).strength == 0.5
    assert SweepPoint(1.0, 0.0, 0.0).h_mean == 0.0
    with pytest.raises(ta.ConfigError, match="no accuracy of closed answers"):
        validate._suites(["text"], Validation(learned=("text",), kept=("text",)))


def test_the_command_repairs_by_a_yaml_plan(base: Path, tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("interpolate: {projector: 0.0}\n")
    command = ["repair", tuned, "--base", base, "--out", tmp_path / "out", "--plan", tmp_path / "plan.yaml"]
    done = CliRunner().invoke(main.app, [str(argument) for argument in command])
    assert done.exit_code == 0, done.output
    assert "strength 1, written to" in done.stdout
    assert torch.equal(weights(tmp_path / "out")[PROJECTOR], weights(base)[PROJECTOR])
    ta.load_vlm(tmp_path / "out")  # with its processor


def test_a_resized_vocabulary_is_repaired_against_a_base_resized_too(base: Path, tmp_path: Path) -> None:
    """What the refusal says to do is done."""
    model, _ = tiny_chat_model("llava")
    model.resize_token_embeddings(200, mean_resizing=False)
    with torch.no_grad():
        model.get_parameter(WRITER).add_(0.02)
    model.save_pretrained(tmp_path / "tuned")
    with pytest.raises(ta.ModelError, match=r"in the base; give a base of that shape .*resize_token_embeddings"):
        ta.repair(tmp_path / "tuned", base, tmp_path / "out")
    resized = load_model(base)
    resized.resize_token_embeddings(200, mean_resizing=False)
    resized.save_pretrained(tmp_path / "base")
    report = ta.repair(tmp_path / "tuned", tmp_path / "base", tmp_path / "out")
    assert WRITER in {row.name for row in report.tensors}
