"""What methods promise beyond a run that ends well: their formulas, and the options that they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_runs import picture
from helpers.tiny_sessions import session
from textanchor.data.reference_images import ReferenceImages
from textanchor.errors import ConfigError, DataError
from textanchor.methods.app import DEFAULT_FILTERS, AnchorPreservingProjection, read_texts
from textanchor.methods.l2sp import L2SP
from textanchor.training.config import PartConfig, PartsConfig
from textanchor.training.method import load_method
from textanchor.training.trainable import trained_parameters


def test_l2sp_is_half_the_squared_distance_of_the_merged_weights(tmp_path: Path) -> None:
    run = session(tmp_path)
    before = {name: tensor.clone() for name, tensor in run.model.get_base_model().state_dict().items()}  # pyright: ignore
    penalty = L2SP(strength=0.6).start(run).penalty
    assert penalty is not None
    assert penalty() == 0
    with torch.no_grad():
        for parameter in trained_parameters(run.model).values():
            parameter += 0.1 * torch.randn_like(parameter)
    term = penalty()
    assert isinstance(term, torch.Tensor)
    term.backward()
    gradients = {name: p.grad for name, p in trained_parameters(run.model).items()}
    projector = next(name for name in gradients if name.endswith("linear_2.weight"))
    moved = dict(run.parts.parameters_of("projector"))[projector] - run.start.full[projector]
    assert torch.allclose(gradients[projector], 0.6 * moved, atol=1e-6)  # pyright: ignore[reportArgumentType]
    after = run.model.merge_and_unload().state_dict()  # pyright: ignore[reportCallIssue]
    plain = {name.replace(".base_layer", ""): tensor for name, tensor in before.items() if ".lora_" not in name}
    distance = sum(float((after[name] - tensor).double().square().sum()) for name, tensor in plain.items())
    tied = float((after["lm_head.weight"] - plain["lm_head.weight"]).double().square().sum())
    assert term.item() == pytest.approx(0.3 * (distance - tied), rel=1e-5)


def test_app_that_names_no_part_holds_both_by_default() -> None:
    reference = {"task": "shape", "num_images": 2}
    default, named = (load_method({"name": "app", "reference": reference, **o}) for o in ({}, {"projector": HELD}))
    assert isinstance(default, AnchorPreservingProjection) and isinstance(named, AnchorPreservingProjection)
    assert {"projector": default.projector, "language_model": default.language_model} == DEFAULT_FILTERS
    assert default.needs == "reference images"
    assert named.language_model is None
    with pytest.raises(ConfigError, match="names no part holds both: name the one that trains"):
        default.check_parts(PartsConfig(projector=PartConfig(train="full"), language_model=PartConfig(train="frozen")))


HELD = {"mode": "inputs", "kept_fraction": 0.1}
TEXT_HELD = {"mode": "outputs", "num_kept": 4}
SEES = {"language_anchor": "text_and_images"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "add reference"),
        ({"projector": HELD}, "add reference"),
        ({"projector": TEXT_HELD, "anchor": "a", "num_texts": 3}, "no effect beside a saved anchor"),
        ({"projector": TEXT_HELD, "num_texts": 0}, "num_texts must be at least 1"),
        ({"projector": {"mode": "outputs"}}, "exactly one of num_kept"),
        ({"projector": HELD, "reference": {"num_images": 2}}, "exactly one of task, tasks, path and folder"),
        ({"projector": HELD, "reference": {"task": "shape", "num_images": 0}}, "num_images must be at least 1"),
        ({"projector": TEXT_HELD | {"basis": "visual"}}, "add reference"),
        ({"projector": TEXT_HELD | {"mode": "coupling"}}, "add reference"),
        (
            {"projector": HELD, "reference": {"folder": "a", "num_images": 2, "question": "What?"}},
            r"reference\.question has no effect",
        ),
        (
            {"projector": HELD, "reference": {"task": "shape", "num_images": 2, "question": "What?"}},
            "question has no effect beside task",
        ),
        (
            {
                "projector": TEXT_HELD | {"basis": "reference_sensitivity"},
                "reference": {"folder": "a", "num_images": 2},
            },
            r"give reference\.question",
        ),
        ({"projector": TEXT_HELD, **SEES}, "without such a hold"),
        ({"projector": TEXT_HELD, "replay_reference": True}, "no effect without reference"),
        (
            {"projector": TEXT_HELD, "replay_reference": True, "reference": {"folder": "a", "num_images": 2}},
            r"give reference\.question",
        ),
        (
            {"language_model": HELD, "language_anchor": "text_and_images", "anchor": "a"},
            "no effect beside a saved anchor",
        ),
        ({"language_model": HELD, "language_anchor": "text_and_images"}, "add reference"),
        (
            {
                "language_model": HELD,
                **SEES,
                "reference": {"folder": "a", "num_images": 2},
            },
            r"give reference\.question",
        ),
    ],
)
def test_app_refuses_options_without_effect(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_method({"name": "app", **options})


def test_app_needs_images_only_where_what_enters_the_projector_is_held() -> None:
    reference = {"task": "shape", "num_images": 2}
    assert load_method({"name": "app", "projector": TEXT_HELD}).needs == "text"
    assert load_method({"name": "app", "language_model": HELD}).needs == "text"
    assert load_method({"name": "app", "projector": HELD, "reference": reference}).needs == "reference images"
    pulled = TEXT_HELD | {"inner": "pullback"}
    assert load_method({"name": "app", "projector": pulled, "reference": reference}).needs == "reference images"
    asks = {"name": "app", "language_model": HELD, **SEES, "reference": reference}
    assert load_method(asks).needs == "reference questions"
    replays = {"name": "app", "projector": TEXT_HELD, "reference": reference, "replay_reference": True}
    assert load_method(replays).needs == "reference questions"
    sensitive = TEXT_HELD | {"basis": "reference_sensitivity"}
    assert load_method({"name": "app", "projector": sensitive, "reference": reference}).needs == "reference questions"
    assert load_method({"name": "app", "projector": TEXT_HELD | {"basis": "text_sensitivity"}}).needs == "text"
    everything = {"mode": "inputs", "basis": "identity", "hold": "decay"}
    assert load_method({"name": "app", "projector": everything}).needs == "nothing"


def test_reference_images_with_questions_are_the_rows_of_the_train_split(tmp_path: Path) -> None:
    rows = []
    for i in range(12):
        picture(i).save(tmp_path / f"{i}.png")
        split = "test" if i == 0 else "train"
        rows.append({"image": f"{i}.png", "question": f"What is {i}?", "answer": "a star", "split": split})
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    reference = ReferenceImages(path=tmp_path / "data.jsonl", num_images=3)
    assert [item.question for item in reference.questions()] == ["What is 1?", "What is 2?", "What is 3?"]
    assert [image.tobytes() for image in reference.for_anchor()] == [picture(i).tobytes() for i in (1, 2, 3)]
    most = ReferenceImages(path=tmp_path / "data.jsonl", num_images=11)
    assert len(most.questions()) == 11
    with pytest.raises(DataError, match="11 reference images, but num_images=11 and 8 to measure with need 19"):
        most.for_anchor()
    with pytest.raises(DataError, match="11 reference images, but num_images=12; add"):
        ReferenceImages(path=tmp_path / "data.jsonl", num_images=12).questions()


def test_reference_images_of_tasks_are_taken_in_turn() -> None:
    names = ("existence", "color")
    (first, third), (second, fourth) = (ReferenceImages(task=name, num_images=2).questions() for name in names)
    together = ReferenceImages(tasks=names, num_images=4).questions()
    assert [item.id for item in together] == [item.id for item in (first, second, third, fourth)]


def test_reference_images_of_the_probe_are_others(tmp_path: Path) -> None:
    for i in range(12):
        picture(i).save(tmp_path / f"{i:02}.png")
    (tmp_path / "notes.txt").write_text("no image")
    reference = ReferenceImages(folder=tmp_path, num_images=4)
    anchor, probe = reference.for_anchor(), reference.for_probe()
    assert [image.tobytes() for image in anchor + probe] == [picture(i).tobytes() for i in range(12)]
    assert len(probe) == 8
    with pytest.raises(DataError, match="12 reference images"):
        ReferenceImages(folder=tmp_path, num_images=5).for_anchor()
    with pytest.raises(DataError, match="no such folder of reference images"):
        ReferenceImages(folder=tmp_path / "none", num_images=5).for_probe()


def test_texts_come_from_lines_rows_or_the_package(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\u2028three\r\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "three"}\n{"text": "four"}\n')
    (tmp_path / "c.jsonl").write_text('{"words": "three"}\n')
    assert read_texts(tmp_path / "a.txt", None) == ["one", "two\u2028three"], "one line each"
    assert read_texts(tmp_path / "b.jsonl", 1) == ["three"]
    assert len(read_texts(None, 3)) == 3
    with pytest.raises(DataError, match="2 texts, fewer than num_texts=3"):
        read_texts(tmp_path / "a.txt", 3)
    with pytest.raises(DataError, match=r"c\.jsonl.*expected a row with `text`"):
        read_texts(tmp_path / "c.jsonl", None)
    with pytest.raises(DataError, match="cannot be read"):
        read_texts(tmp_path / "none.txt", None)
