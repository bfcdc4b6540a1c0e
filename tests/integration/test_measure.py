"""Measuring tiny random models: states are those of the model, four families run, the page holds every number."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.html_reading import of_tag, read_html
from helpers.tiny_chat import tiny_chat_model
from helpers.tiny_models import tiny_inputs, tiny_vlm
from textanchor.analysis.claims import moving
from textanchor.analysis.config import MeasureConfig
from textanchor.analysis.measure import claims_of, measure, measure_to_folder
from textanchor.analysis.movement import movement_numbers
from textanchor.analysis.passes import ImageReceivers, Passes
from textanchor.cli import report
from textanchor.data.captioned import load_captioned
from textanchor.data.texts import load_texts
from textanchor.errors import ConfigError, DataError, ModelError, TextanchorError
from textanchor.files import write_json
from textanchor.report.documents import GEOMETRY
from textanchor.vlm.names import unwrapped
from textanchor.vlm.parts import find_parts

TEXTS = [row.text for row in load_texts("train")[:24]]
FAMILIES = ("llava", "vipllava", "llava_next", "idefics3")


def config(**changes: Any) -> MeasureConfig:
    return MeasureConfig(**{"model": "tiny", "data": "scenes", "num_images": 24, "num_texts": 24} | changes)


def measured(family: str, **changes: Any) -> dict[str, Any]:
    model, processor = tiny_chat_model(family)
    settings = config(**changes)
    images = load_captioned("scenes", num_images=settings.num_images)
    return measure(model, processor, images, TEXTS, settings) | {"command": ["textanchor", "measure"]}


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    """A whole measurement, with pairs."""
    return measured("llava", num_images=60)


def states_of(passes: Passes) -> tuple[dict[tuple[str, int], torch.Tensor], ImageReceivers]:
    kept: dict[tuple[str, int], torch.Tensor] = {}
    receivers = ImageReceivers(
        at_depth=lambda depth, index, x_ND: kept.__setitem__(("visual", depth), x_ND.clone()),
        tower=lambda index, x_ND: kept.__setitem__(("tower", 0), x_ND.clone()),
        projected=lambda index, x_ND: kept.__setitem__(("projected", 0), x_ND.clone()),
    )
    return kept, receivers


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "internvl", "blip_2"])
def test_image_positions_are_those_of_the_model(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny_vlm(family, dtype=torch.float64), tiny_inputs(family, dtype=torch.float64)
    monkeypatch.setattr("textanchor.analysis.passes.render_prompt", lambda processor, item: "")
    passes = Passes(find_parts(model), processor=None)
    kept, receivers = states_of(passes)
    with torch.inference_mode():
        passes.run_inputs(inputs, 0, receivers)
        # read independently, layer by layer, with hooks of torch's own
        seen: list[torch.Tensor] = []
        layers = [unwrapped(model).get_submodule(name) for name in passes.layers]
        hooks = [
            layer.register_forward_pre_hook(
                lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
            )
            for layer in layers
        ]
        model(**inputs)
        for hook in hooks:
            hook.remove()
    is_image_L = inputs["input_ids"][0] == passes.visual_ids[0]
    assert kept.keys() >= {("tower", 0), ("projected", 0), ("visual", 0), ("visual", 1), ("visual", 2)}
    for depth, states_1LD in enumerate(seen):
        torch.testing.assert_close(kept["visual", depth], states_1LD[0, is_image_L], rtol=0, atol=0)
    if family != "blip_2":  # OPT adds its learned positions before the first layer
        torch.testing.assert_close(kept["projected", 0], kept["visual", 0])


def test_text_positions_are_those_of_a_text_alone() -> None:
    model, processor = tiny_chat_model("llava")
    passes = Passes(find_parts(model), processor)
    texts = ["red circle", "a blue star in the top left", "one"]
    kept: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
    with torch.inference_mode():
        passes.run_texts(texts, lambda d, i, x_ND, ids_N: kept.__setitem__((d, i), (x_ND, ids_N)), max_tokens=6)
        for index, text in enumerate(texts):
            ids_L = torch.tensor(processor.tokenizer(text)["input_ids"][:6])
            alone = model.model.language_model(input_ids=ids_L[None], output_hidden_states=True).hidden_states
            for depth in (0, 1):
                states_ND, ids_N = kept[depth, index]
                assert torch.equal(ids_N, ids_L[1:])
                torch.testing.assert_close(states_ND, alone[depth][0, 1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_runs_on_four_families(family: str) -> None:
    found = measured(family, gallery_images=0)
    assert found["lens"]["gallery"] == [] and "image_png_base64" not in json.dumps(found, default=list)
    assert {claim["name"] for claim in found["claims"]} == {"anisotropy", "dominance", "coverage"}
    assert any(entry["what"].startswith("C2 predictability") for entry in found["not_measured"])
    assert "<svg" in GEOMETRY.render(found)


def test_a_measurement_is_made_again_bit_for_bit() -> None:
    first, again = measured("llava", num_images=20), measured("llava", num_images=20)
    assert {k for k in first if first[k] != again[k]} <= {"created", "cost", "environment"}


def test_claims_follow_from_the_stored_numbers(numbers: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(numbers, default=list))
    assert [claim.to_dict() for claim in claims_of(stored)] == numbers["claims"]
    assert {claim["name"] for claim in numbers["claims"]} == {
        "anisotropy", "dominance", "coverage", "predictability", "neighbour agreement",
    }  # fmt: skip


def test_random_images_and_captions_agree_in_nothing(numbers: dict[str, Any]) -> None:
    verdicts = {(v["claim"], v["name"]): v["verdict"] for v in numbers["verdicts"]}
    assert verdicts["C2", "neighbour agreement"] != "holds"


def test_the_page_shows_claims_numbers_and_words(numbers: dict[str, Any]) -> None:
    html = GEOMETRY.render(numbers)
    elements = read_html(html)
    text = of_tag(elements, "main")[0].text
    for claim in numbers["claims"]:
        assert claim["name"] in text and claim["statement"] in text
    assert "Images by shuffled text" in text
    for image in numbers["lens"]["gallery"]:
        assert image["captions"][0] in text
    charts = [e for e in of_tag(elements, "svg") if e.attributes.get("role") == "img"]
    assert len(charts) >= 18 and all(chart.text for chart in charts)
    assert all(e.attributes["alt"] for e in of_tag(elements, "img"))
    assert not [e for e in elements if "src" in e.attributes and not str(e.attributes["src"]).startswith("data:")]
    data = json.loads(next(e.text for e in of_tag(elements, "script")))
    assert data["claims"] == json.loads(json.dumps(numbers["claims"]))
    assert "image_png_base64" not in json.dumps(data), "images are in the page once"


def test_the_page_is_made_again_from_its_file(numbers: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "geometry.json", numbers)
    report.run(tmp_path)
    assert (tmp_path / "geometry.html").read_text(encoding="utf-8") == GEOMETRY.render(numbers)
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_file_is_told_by_key(numbers: dict[str, Any], tmp_path: Path) -> None:
    broken = {**numbers, "claims": [{**numbers["claims"][0], "verdict": "maybe"}], "between": [{"depth": 0.5}]}
    with pytest.raises(DataError, match=r"between\[0\]\.depth.*and 1 more"):
        GEOMETRY.build(broken, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_mistakes_leave_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    quiet = {"command": [], "say": lambda text: None}
    with pytest.raises(DataError, match="no such file or folder"):
        measure_to_folder(config(data=str(tmp_path / "none")), out, **quiet)
    with pytest.raises(ModelError, match="no such folder"):
        measure_to_folder(config(model="no-such-folder"), out, **quiet)
    assert not out.exists()
    out.mkdir()
    (out / "file").write_text("mine")
    with pytest.raises(TextanchorError, match="not empty"):
        measure_to_folder(config(), out, **quiet)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "skdim" else object())
    with pytest.raises(ConfigError, match=r"needs skdim: pip install 'textanchor\[geometry\]'"):
        measure_to_folder(config(), tmp_path / "out", command=[], say=print)


def test_a_measurement_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_images must be at least 20"):
        config(num_images=19)
    with pytest.raises(DataError, match="single token or none"):
        model, processor = tiny_chat_model("llava")
        measure(model, processor, load_captioned("scenes", num_images=20), ["a"] * 20, config())


def test_models_without_image_positions_are_refused() -> None:
    with pytest.raises(ModelError, match="cross-attention"):
        Passes(find_parts(tiny_vlm("mllama")), processor=None)


def test_joint_tunings_decide_rigidity_and_leave_the_model_as_it_was() -> None:
    model, processor = tiny_chat_model("llava")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    images = load_captioned("scenes", num_images=64)
    said: list[str] = []
    texts = [row.text for row in load_texts("train")[:40]]
    found = movement_numbers(model, processor, images, texts, steps=6, seed=0, max_text_tokens=12, say=said.append)
    assert [name for line in said for name in ("images", "text") if line.endswith(name)] == ["images", "text"]
    after = dict(model.named_parameters())
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert min(point["loss_reduction"] for point in found["matched"].values()) >= found["level"] > 0
    for row in found["depths"]:
        for claim in (moving.rigidity("depth", row), moving.movement("depth", row)):
            assert claim.interval[0] <= claim.value <= claim.interval[1]
        assert row["visual_by_images"]["estimate"] > 0 and row["text_by_text"]["estimate"] > 0


def test_joint_tunings_need_captions() -> None:
    model, processor = tiny_chat_model("llava")
    with pytest.raises(DataError, match="60 images with captions and 40 texts, found 20 and 24"):
        movement_numbers(
            model, processor, load_captioned("scenes", num_images=20), TEXTS, steps=2, seed=0, max_text_tokens=8,
            say=print,
        )  # fmt: skip
