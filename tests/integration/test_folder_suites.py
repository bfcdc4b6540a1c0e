"""The user's files as suites on a tiny model: every task scored, malformed rows told, nothing dropped silently."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_chat import tiny_chat_model
from textanchor.data.items import Item, Turn
from textanchor.data.scenes import draw_scene
from textanchor.errors import ConfigError, DataError
from textanchor.evaluation.command import evaluate_named
from textanchor.evaluation.registry import load_suites
from textanchor.evaluation.results.summary import summarise, summarise_generated
from textanchor.evaluation.results.values import values_of
from textanchor.evaluation.run import evaluate
from textanchor.evaluation.scoring.prompting import render_prompt
from textanchor.evaluation.suite import SuiteOptions, items_hash
from textanchor.evaluation.suites.closed import ClosedSuite


@pytest.fixture(scope="module")
def llava() -> tuple[Any, Any]:
    return tiny_chat_model("llava")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    (path / "images").mkdir(parents=True)
    rows = []
    for seed in range(4):
        image, objects = f"images/{seed}.png", ["circle", "ring", "star"][: 1 + seed % 3]
        draw_scene(seed).image(32).save(path / image)
        about = {"image": image, "objects": objects}
        caption = {**about, "task": "captions", "question": "Describe."}
        rows += [
            {**about, "id": f"n{seed}", "task": "naming", "question": "?", "answer": "red", "choices": ["red", "blue"]},
            {**about, "id": f"v{seed}", "task": "vqa", "question": "Where is it?", "answer": "top left"},
            {**caption, "id": f"c{seed}", "answer": "a ring", "captions": ["a red ring"]},
            {**caption, "id": f"d{seed}", "answer": "one ring"},
        ]
    (path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_each_task_is_a_suite(llava: tuple[Any, Any], folder: Path) -> None:
    suites = load_suites([f"folder:{folder}"], options=SuiteOptions(free_answers=True))
    assert [suite.name for suite in suites] == ["mine/naming", "mine/vqa", "mine/captions"]
    rows = evaluate(*llava, suites, progress=False)
    summary, generated = summarise(rows), summarise_generated(rows)
    assert summary["tasks"]["mine/naming"]["num_items"] == 4
    assert "accuracy" not in summary["tasks"]["mine/vqa"], "an open question has no chance level"
    assert summary["tasks"]["mine/vqa"]["gold_nats"]["estimate"] > 0
    assert generated["free_answers"]["mine/vqa"]["unparsed"] is None
    assert 0 <= generated["free_answers"]["mine/naming"]["unparsed"] <= 1
    assert 0 <= generated["captions"]["mine/captions"]["cider_d"]["estimate"] <= 10
    assert len(values_of(rows, "mine/captions", "cider_d")) == 4, "one caption for each image, not for each row"


def test_references_of_one_image_are_put_together(folder: Path) -> None:
    captions = load_suites([f"folder:{folder}"])[2]
    assert captions.items[0].references == ("a red ring", "a ring", "one ring")  # type: ignore[attr-defined]


def test_a_task_with_captions_of_some_images_only_is_questions(folder: Path) -> None:
    with (folder / "data.jsonl").open("a") as file:
        row = {"id": "late", "image": "images/new.png", "task": "captions", "question": "Describe.", "answer": "a star"}
        file.write("\n" + json.dumps(row))
    draw_scene(9).image(32).save(folder / "images" / "new.png")
    assert isinstance(load_suites([f"folder:{folder}"])[2], ClosedSuite)


def test_fewer_items_are_drawn_by_the_seed(folder: Path) -> None:
    drawn = [load_suites([f"folder:{folder}"], num_items=2, seed=seed)[0].items for seed in (0, 0, 1, 2)]  # type: ignore[attr-defined]
    assert drawn[0] == drawn[1]
    assert len({tuple(item.id for item in items) for items in drawn}) > 1
    assert all(len(items) == 2 for items in drawn)


def test_pope_and_chair_from_object_lists(llava: tuple[Any, Any], folder: Path) -> None:
    synonyms = folder.parent / "words.txt"
    synonyms.write_text("circle, disc\nring\nstar\n", encoding="utf-8")
    suites = load_suites([f"pope:{folder}", f"chair:{folder}"], options=SuiteOptions(synonyms=synonyms))
    pope, chair = suites
    assert (pope.name, chair.name) == ("pope_mine", "chair_mine")
    assert {item.id.partition("/")[0] for item in pope.items} == {"random", "popular", "adversarial"}  # type: ignore[attr-defined]
    assert chair.vocabulary.mentions("two discs") == ["circle"]  # type: ignore[attr-defined]
    assert set(chair.items[0].objects) == {"circle", "ring"}, "what captions name is there too"  # type: ignore[attr-defined]
    summary = summarise(evaluate(*llava, suites, progress=False))
    assert summary["pope"]["num_items"] == len(pope.items)  # type: ignore[attr-defined]
    assert summary["pope"]["blind_accuracy"] is not None
    assert summary["chair"]["num_items"] == 4


def test_objects_are_those_of_the_vocabulary_or_the_file_is_refused(folder: Path, tmp_path: Path) -> None:
    synonyms = tmp_path / "synonyms.txt"
    synonyms.write_text("round thing, circle, ring\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"image images/2.png: its object 'star' is not in the vocabulary"):
        load_suites([f"chair:{folder}"], options=SuiteOptions(synonyms=synonyms))
    synonyms.write_text("round thing, circle, ring\nstar\n", encoding="utf-8")
    (chair,) = load_suites([f"chair:{folder}"], options=SuiteOptions(synonyms=synonyms))
    assert chair.items[2].objects == ("round thing", "star"), "by the vocabulary's names"  # type: ignore[attr-defined]


def test_what_was_thought_is_no_caption(llava: tuple[Any, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def thinking(model: Any, processor: Any, items: Any, **_: Any) -> list[str]:
        return ["<think>A star? Or rings, rings.</think>A circle."] * len(items)

    monkeypatch.setattr("textanchor.evaluation.suites.captions.generate_answers", thinking)
    suites = load_suites([f"chair:{folder}"])
    rows = evaluate(*llava, suites, progress=False)
    assert set(values_of(rows, "chair_mine", "num_mentions").values()) == {1.0}
    assert set(values_of(rows, "chair_mine", "num_words").values()) == {2.0}
    assert all(row.answer.startswith("<think>") for row in rows if row.answer), "the raw answer is kept"


def test_fewer_pope_questions_stay_balanced(folder: Path) -> None:
    rows = [
        {"id": n, "image": "images/0.png", "question": f"{n}?", "answer": "yes" if n % 4 else "no"} for n in range(60)
    ]
    (folder / "pope_random.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    drawn = load_suites([f"pope:{folder}"], num_items=20)[0].items  # type: ignore[attr-defined]
    assert [item.answer for item in drawn].count("yes") == 10


def test_fewer_questions_of_a_joined_file_are_of_each_category(folder: Path) -> None:
    rows = [
        {
            "question_id": n,
            "image": "images/0.png",
            "question": f"{n}?",
            "answer": "yes" if n % 3 else "no",
            "category": category,
        }
        for category in ("random", "popular", "adversarial")
        for n in range(20)
    ]
    (folder / "pope.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    items = load_suites([f"pope:{folder}"], num_items=6)[0].items  # type: ignore[attr-defined]
    assert [item.task for item in items] == [
        t for t in ("pope_random", "pope_popular", "pope_adversarial") for _ in "123456"
    ]
    assert [item.answer for item in items].count("yes") == 9


def test_two_suites_of_one_place_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="POPE"):
        load_suites(["pope_scenes", f"pope:{folder}"], num_items=2)
    with pytest.raises(ConfigError, match="mine/naming"):
        load_suites([f"folder:{folder}", f"folder:{folder / 'data.jsonl'}", f"folder:{folder}/"])


def test_malformed_rows_stop_or_are_told(llava: tuple[Any, Any], folder: Path, tmp_path: Path) -> None:
    with (folder / "data.jsonl").open("a") as file:
        file.write('\n{"question": "?"}\n{broken\n')
    with pytest.raises(DataError, match=r"2 malformed rows beside 16 .*line 17.*line 18"):
        load_suites([f"folder:{folder}"])
    for part in llava:
        part.save_pretrained(tmp_path / "tiny")
    options = SuiteOptions(skip_malformed=True)
    done = evaluate_named(
        tmp_path / "tiny",
        [f"folder:{folder}"],
        out=tmp_path / "out",
        options=options,
        use_cache=False,
        progress=False,
    )
    assert "mine/naming, mine/vqa, mine/captions: left out 2 malformed rows" in str(done)
    assert "line 18" in str(done)
    assert len(done.record.extra["malformed_rows"]["mine/naming"]) == 2


def test_line_separators_in_ids_and_answers_end_no_line(llava: tuple[Any, Any], folder: Path, tmp_path: Path) -> None:
    marks = ("\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e", "\r")
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text(encoding="utf-8").split("\n")]
    for row, mark in zip(rows, marks, strict=False):
        row["id"] = f"{row['id']}{mark}x"
        row["question"] += mark
    (folder / "data.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    for part in llava:
        part.save_pretrained(tmp_path / "tiny")

    def evaluated(out: str, **baselines: Any) -> Any:
        quiet = dict(use_cache=False, progress=False)
        return evaluate_named(tmp_path / "tiny", [f"folder:{folder}"], out=tmp_path / out, **quiet, **baselines)

    first = evaluated("first").record.scores
    marked = {score.item_id for score in first if any(mark in score.item_id for mark in marks)}
    assert len(marked) == 6, "the two questions for a caption of one image are one item"
    assert evaluated("first").record.scores == first, "taken up whole"
    again = evaluated("second", baselines=[tmp_path / "first"])
    assert again.retention is not None


def test_the_divergence_is_from_the_base_that_is_named(tmp_path: Path) -> None:
    for seed in (0, 1):
        for part in tiny_chat_model("llava", seed=seed):
            part.save_pretrained(tmp_path / str(seed))
    divergence = {}
    for base in (None, tmp_path / "0", tmp_path / "1"):
        out = tmp_path / f"out-{base.name if base else 'none'}"
        done = evaluate_named(
            tmp_path / "0", ["text"], num_items=2, out=out, base=base, use_cache=False, progress=False
        )
        divergence[base.name if base else ""] = summarise(done.record.scores)["text"].get("kl_to_base")
        assert ("--base" in str(done)) == (base is None), "without a base the output says how to give one"
    assert divergence[""] is None
    assert abs(divergence["0"]["estimate"]) < 1e-5
    assert divergence["1"]["estimate"] > 1e-2


def test_nothing_sound_is_an_error_even_where_rows_may_be_left_out(folder: Path) -> None:
    (folder / "data.jsonl").write_text("{broken", encoding="utf-8")
    with pytest.raises(DataError, match="0 sound"):
        load_suites([f"folder:{folder}"], options=SuiteOptions(skip_malformed=True))
    (folder / "data.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="no rows"):
        load_suites([f"folder:{folder}"])


def test_history_and_system_are_in_the_prompt_and_in_the_hash(llava: tuple[Any, Any]) -> None:
    image = draw_scene(1).image(32)
    turn = Turn(question="<image>\nWhat?", answer="a ring")
    item = Item(id="i", task="t", question="Where?", answer="left", image=image, system="Short.", history=(turn,))
    prompt = render_prompt(llava[1], item)
    assert prompt == (
        "system\nShort.<end>\nuser\n<image>\nWhat?<end>\nassistant\na ring<end>\nuser\nWhere?<end>\nassistant\n"
    )
    assert render_prompt(llava[1], item, blind=True) == prompt.replace("<image>\n", "")
    plain = Item(id="i", task="t", question="Where?", answer="left", image=image)
    assert render_prompt(llava[1], plain) == "user\n<image>\nWhere?<end>\nassistant\n"
    assert items_hash([item]) != items_hash([plain])
    twice = Item(id="i", task="t", question="<image> <image>", answer="left", image=image)
    with pytest.raises(DataError, match="one image"):
        render_prompt(llava[1], twice)
