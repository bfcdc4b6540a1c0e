"""Suites on tiny models: every row where it belongs, and values that a plain computation gives."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import textanchor.evaluation.run as run
from helpers.tiny_chat import tiny_chat_model
from textanchor.data.items import Item
from textanchor.data.scenes import draw_scene
from textanchor.data.tasks import TASKS
from textanchor.errors import ConfigError, DataError, TextanchorError
from textanchor.evaluation.registry import GROUPS, PATH_SUITES, SUITES, load_suite, load_suites
from textanchor.evaluation.results.kinds import kind_of
from textanchor.evaluation.results.summary import summarise
from textanchor.evaluation.results.values import metrics_of, values_of
from textanchor.evaluation.run import evaluate, evaluate_to_folder, read_scores
from textanchor.evaluation.scoring.candidates import score_candidates
from textanchor.evaluation.scoring.generation import generate_answers
from textanchor.evaluation.scoring.images import TowerCache
from textanchor.evaluation.scoring.parsing import parse_yes_no_as_published
from textanchor.evaluation.suite import EvaluationOptions, SuiteOptions, suite_hash
from textanchor.evaluation.suites.closed import closed_suite
from textanchor.evaluation.suites.pope import pope_scenes
from textanchor.evaluation.suites.text import TextSuite
from textanchor.records import RunRecord

SCENE_SUITES = ("existence", "color", "position")


@pytest.fixture(scope="module")
def llava() -> tuple[Any, Any]:
    return tiny_chat_model("llava")


def scene_item(seed: int, question: str, **changes: Any) -> Item:
    return Item(
        id=f"{seed}-{question}", task="t", question=question, answer="yes", image=draw_scene(seed).image(), **changes
    )


def test_every_task_is_a_suite() -> None:
    assert set(TASKS) <= SUITES.keys()
    for name in {name for names in GROUPS.values() for name in names}:
        assert name in SUITES or name.partition(":")[0] in PATH_SUITES


def test_unknown_names_and_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="'existence'"):
        load_suite("existance", num_items=1)
    with pytest.raises(ConfigError, match="'blinded'"):
        load_suite("existence", num_items=1, blinded=True)


def test_groups_are_taken_apart_and_doubles_left_out() -> None:
    suites = load_suites(["color", "color"], num_items=2)
    assert [suite.name for suite in suites] == ["color"]


def test_two_suites_for_one_place_of_the_summary_are_refused_before_anything_is_scored(
    llava: tuple[Any, Any], tmp_path: Path
) -> None:
    """By either way in, and whatever the two are called."""
    drawn, chair = pope_scenes(num_items=2), load_suite("chair_scenes", num_items=2)
    texts = TextSuite(name="mine", texts={"a": "one two"})
    pairs = {
        "POPE": [drawn, replace(drawn, name="pope_mine")],
        "CHAIR": [chair, replace(chair, name="chair_mine")],
        "text": [load_suite("text", num_items=2), texts],
        "color": [load_suite("color", num_items=2), load_suite("color", num_items=3)],
    }
    for place, suites in pairs.items():
        with pytest.raises(ConfigError, match=f"'{suites[1].name}' are two suites for {place} .*two output folders"):
            evaluate_to_folder(*llava, suites, tmp_path / "out", name="tiny", progress=False)
    assert not (tmp_path / "out").exists()
    asked = [{"question_id": i, "image": "1.png", "text": "?", "label": label} for i, label in enumerate(("no", "yes"))]
    (tmp_path / "mine.json").write_text(json.dumps(asked))
    draw_scene(1).image(32).save(tmp_path / "1.png")
    with pytest.raises(ConfigError, match=r"'pope_scenes' and 'pope_mine' are two suites for POPE"):
        load_suites(["pope_scenes", f"pope:{tmp_path / 'mine.json'}"])


def test_a_changed_item_changes_the_hash() -> None:
    one, same, other = (load_suite("color", num_items=3, seed=seed) for seed in (0, 0, 1))
    assert suite_hash(one) == suite_hash(same)
    assert suite_hash(one) != suite_hash(other)
    assert suite_hash(one) != suite_hash(load_suite("color", num_items=3, blind=False))


def test_suites_scored_together_are_as_scored_alone(llava: tuple[Any, Any]) -> None:
    suites = load_suites(SCENE_SUITES, num_items=4)
    together = evaluate(*llava, suites, progress=False)
    alone = [row for suite in suites for row in suite.score(*llava, EvaluationOptions())]
    assert [(r.suite, r.item_id, r.metric, r.answer) for r in together] == [
        (r.suite, r.item_id, r.metric, r.answer) for r in alone
    ]
    assert [r.value for r in together] == pytest.approx([r.value for r in alone], abs=1e-4)
    summary = summarise(together)
    assert set(summary["tasks"]) == set(SCENE_SUITES)
    assert summary["tasks"]["color"]["num_items"] == 4


def test_blind_rows_are_of_the_questions_without_images(llava: tuple[Any, Any]) -> None:
    suite = closed_suite("color", num_items=4)
    rows = suite.score(*llava, EvaluationOptions())
    expected = score_candidates(*llava, suite.items, blind=True)
    gold = [score.nats_of(item.answer) for item, score in zip(suite.items, expected, strict=True)]
    assert list(values_of(rows, "color", "blind_gold_nats").values()) == pytest.approx(gold, abs=1e-4)
    assert list(values_of(rows, "color", "gold_nats").values()) != pytest.approx(gold, abs=1e-3)


def test_evaluations_with_one_cache_pass_each_image_through_the_tower_once() -> None:
    model, processor = tiny_chat_model("llava")
    passes: list[int] = []
    model.model.vision_tower.register_forward_hook(lambda *_: passes.append(1))
    suites = load_suites(["color", "position"], num_items=3)
    options = EvaluationOptions(tower_cache=TowerCache())
    first = evaluate(model, processor, suites, options=options, progress=False)
    assert len(passes) == len({item.image_id for suite in suites for item in suite.items})  # type: ignore[attr-defined]
    again = evaluate(model, processor, suites, options=options, progress=False)
    assert len(passes) == len(options.tower_cache or ())
    assert first == again


def test_majority_is_of_the_gold_answers(llava: tuple[Any, Any]) -> None:
    suite = closed_suite("count", num_items=12, blind=False)
    answers = [item.answer for item in suite.items]
    rows = suite.score(*llava, EvaluationOptions())
    share = sum(values_of(rows, "count", "majority_correct").values()) / 12
    assert share == max(answers.count(answer) for answer in answers) / 12
    assert not [row for row in rows if row.metric.startswith("blind")]


def test_progress_counts_every_step(llava: tuple[Any, Any]) -> None:
    suites = [*load_suites(["color", "pope_scenes", "chair_scenes", "caption"], num_items=3), text_suite(None)]
    for sharing in ("auto", "off"):
        counted: list[int] = []
        options = EvaluationOptions(sharing=sharing, advance=counted.append)  # type: ignore[arg-type]
        for suite in suites:
            counted.clear()
            suite.score(*llava, options)
            assert sum(counted) == suite.num_steps, suite.name


def test_rows_are_of_the_kind_that_their_suite_is_of(llava: tuple[Any, Any]) -> None:
    names = ["color", "pope_scenes", "chair_scenes", "caption"]
    suites = [*load_suites(names, num_items=3), text_suite(None)]
    rows = evaluate(*llava, suites, progress=False)
    kinds = {suite.name: kind_of(metrics_of(rows, suite.name)) for suite in suites}
    assert kinds == {suite.name: suite.kind for suite in suites}
    assert [kind.name for kind in kinds.values()] == ["task", "pope", "chair", "task", "text"]


@pytest.mark.parametrize("answered_by", ["likelihood", "generation"])
def test_pope_rows(llava: tuple[Any, Any], answered_by: Any) -> None:
    suite = pope_scenes(num_items=6, answered_by=answered_by)
    assert {item.task for item in suite.items} == {"pope_random", "pope_popular", "pope_adversarial"}
    for item in suite.items:
        assert (
            item.question.removeprefix("Is there ").split(" ", 1)[1].removesuffix(" in the image?") in item.objects
        ) == (item.answer == "yes")
    pope = summarise(suite.score(*llava, EvaluationOptions()))["pope"]
    assert pope["num_items"] == len(suite.items)
    assert 0 <= pope["yes_ratio"] <= 1
    assert ("strict" in pope) == ("published" in pope) == (answered_by == "generation")
    if answered_by == "likelihood":
        assert pope["unparsed"] == 0


def test_pope_with_free_answers_has_the_published_reading_beside_ours(llava: tuple[Any, Any]) -> None:
    (suite,) = load_suites(["pope_scenes"], num_items=6, options=SuiteOptions(free_answers=True))
    generated = pope_scenes(num_items=6, answered_by="generation").score(*llava, EvaluationOptions())
    rows = suite.score(*llava, EvaluationOptions())
    pope = summarise(rows)["pope"]
    assert pope["free"]["accuracy"] == summarise(generated)["pope"]["accuracy"]["estimate"]
    assert pope["published"] == summarise(generated)["pope"]["published"]
    assert pope["published"]["unparsed"] == 0
    answers = {row.item_id: row.answer for row in rows if row.metric == "free_correct"}
    said = {row.item_id: row.value for row in rows if row.metric == "published_said_yes"}
    assert said == {item: float(parse_yes_no_as_published(answer or "")) for item, answer in answers.items()}
    assert pope["unparsed"] == 0, "the questions are also answered by likelihood"


def test_chair_keeps_the_captions(llava: tuple[Any, Any]) -> None:
    suite = load_suite("chair_scenes", num_items=3)
    rows = suite.score(*llava, EvaluationOptions())
    captions = [row.answer for row in rows if row.metric == "num_mentions"]
    assert len(captions) == 3
    assert all(isinstance(caption, str) for caption in captions)
    assert summarise(rows)["chair"]["num_items"] == 3


def test_generation_is_that_of_a_batch_of_one(llava: tuple[Any, Any]) -> None:
    model, processor = llava
    items = [scene_item(1, "What?"), scene_item(2, "How many objects are in the image?"), scene_item(3, "Where is it?")]
    items.append(Item(id="text", task="t", question="Is there a ring?", answer="yes"))
    together = generate_answers(model, processor, items, max_new_tokens=8)
    for item, answer in zip(items, together, strict=True):
        one = processor.apply_chat_template(
            [
                {
                    "role": "user",
                    "content": [*([{"type": "image"}] if item.image else []), {"type": "text", "text": item.question}],
                }
            ],
            add_generation_prompt=True,
            tokenize=False,
        )
        inputs = processor(text=one, images=item.image, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert answer == processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert len(set(together)) == len(items), "answers that are all alike would show nothing"


def test_the_models_sampling_settings_are_not_used(llava: tuple[Any, Any]) -> None:
    model, processor = llava
    items = [scene_item(1, "What?"), scene_item(2, "Where is it?")]
    expected = generate_answers(model, processor, items, max_new_tokens=12)
    before = model.generation_config.to_dict()
    try:
        model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=50.0)
        assert generate_answers(model, processor, items, max_new_tokens=12) == expected
    finally:
        model.generation_config.update(**before)


TEXTS = {"one": "Where is the red ring? top left", "two": "one two three four", "three": "a blue circle and a star"}


def text_suite(base: Any) -> TextSuite:
    return TextSuite(name="text", texts=TEXTS, base=base)


@pytest.mark.parametrize("sharing", ["auto", "off"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_takes_the_images(sharing: Any, dtype: torch.dtype) -> None:
    """The processor gives float32 pixels, whatever the weights are."""
    model, processor = tiny_chat_model("llava")
    suites = [load_suite(name, num_items=2) for name in ("color", "pope_scenes")]
    suites.append(replace(load_suite("chair_scenes", num_items=2), max_new_tokens=4))  # pyright: ignore
    options = EvaluationOptions(sharing=sharing)
    exact = evaluate(model, processor, suites, options=options, progress=False)
    rough = evaluate(model.to(dtype), processor, suites, options=options, progress=False)
    pairs = [(a.value, b.value) for a, b in zip(exact, rough, strict=True) if a.metric == "gold_nats"]
    assert all(a == pytest.approx(b, rel=0.05) for a, b in pairs)


def test_text_rows_are_those_of_one_text_at_a_time(llava: tuple[Any, Any]) -> None:
    model, processor = llava
    base, _ = tiny_chat_model("llava", seed=1)
    rows = text_suite(base).score(model, processor, EvaluationOptions())
    for name, text in TEXTS.items():
        ids_1L = processor.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = model(input_ids=ids_1L, labels=ids_1L).loss.item()
            p_LV, base_LV = (m(input_ids=ids_1L).logits[0, :-1].double().softmax(-1) for m in (model, base))
        count = ids_1L.shape[1] - 1
        assert values_of(rows, "text", "num_tokens")[name] == count
        assert values_of(rows, "text", "nats")[name] == pytest.approx(loss * count, rel=1e-4)
        kl = (base_LV * (base_LV.log() - p_LV.log())).sum().item()
        assert values_of(rows, "text", "base_kl")[name] == pytest.approx(kl, rel=1e-4)


def test_kl_of_a_model_to_itself_is_zero(llava: tuple[Any, Any]) -> None:
    rows = text_suite(llava[0]).score(*llava, EvaluationOptions())
    assert max(map(abs, values_of(rows, "text", "base_kl").values())) < 1e-5


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_base_passes_its_layers_once_where_its_head_is_all(llava: tuple[Any, Any], scale: float) -> None:
    """A base that does more with its logits (here: scales them) is run anew for every model."""
    processor, base = llava[1], tiny_chat_model("llava", seed=1)[0]
    forward, calls = base.forward, []

    def scaled(**inputs: Any) -> Any:
        calls.append(inputs)
        outputs = forward(**inputs)
        outputs.logits = scale * outputs.logits
        return outputs

    base.forward = scaled
    suite, models = text_suite(base), [tiny_chat_model("llava", seed=seed)[0] for seed in (2, 3)]
    shared = [suite.score(model, processor, EvaluationOptions()) for model in models]
    num_batches, calls[:] = len(calls), []
    alone = [text_suite(base).score(model, processor, EvaluationOptions()) for model in models]
    for one, other in zip(shared, alone, strict=True):
        assert [row.value for row in one] == pytest.approx([row.value for row in other], rel=1e-4, abs=1e-6)
    assert len(calls) == 2 * (num_batches if scale == 1 else num_batches // 2)


def test_the_base_itself_is_not_run_twice(llava: tuple[Any, Any]) -> None:
    model, processor = llava
    rows = text_suite(model).score(model, processor, EvaluationOptions())
    assert set(values_of(rows, "text", "base_kl").values()) == {0.0}


def test_batches_of_texts_do_not_matter(llava: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = text_suite(None).score(*llava, EvaluationOptions())
    monkeypatch.setattr("textanchor.evaluation.suites.text.LOGITS_AT_ONCE", 1)
    single = text_suite(None).score(*llava, EvaluationOptions())
    assert [row.value for row in whole] == pytest.approx([row.value for row in single], rel=1e-5)


def test_a_text_of_one_token_is_named(llava: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match="'x'"):
        TextSuite(name="text", texts={"x": "a"}).score(*llava, EvaluationOptions())


def test_a_folder_holds_rows_summary_and_record(llava: tuple[Any, Any], tmp_path: Path) -> None:
    suites = load_suites(["color", "existence"], num_items=3)
    record = evaluate_to_folder(*llava, suites, tmp_path / "out", name="tiny", progress=False)
    assert read_scores(tmp_path / "out") == record.scores
    assert RunRecord.load(tmp_path / "out" / "run.json").scores == record.scores
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary == summarise(record.scores)
    assert record.extra["image_sharing"] == "one row for each image"
    assert math.isfinite(record.cost["seconds"])


def test_an_interrupted_evaluation_goes_on(
    llava: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites = load_suites(["color", "existence"], num_items=3)
    scored: list[str] = []
    original = run.ClosedSuite.score

    def score(suite: Any, *args: Any) -> Any:
        if suite.name == "existence" and "existence" not in scored:
            scored.append(suite.name)
            raise KeyboardInterrupt
        scored.append(suite.name)
        return original(suite, *args)

    monkeypatch.setattr(run.ClosedSuite, "score", score)
    with pytest.raises(KeyboardInterrupt):
        evaluate_to_folder(*llava, suites, tmp_path / "out", name="tiny", progress=False)
    record = evaluate_to_folder(*llava, suites, tmp_path / "out", name="tiny", progress=False)
    assert scored == ["color", "existence", "existence"], "the finished suite is not scored again"
    whole = evaluate_to_folder(*llava, suites, tmp_path / "whole", name="tiny", progress=False)
    assert record.scores == whole.scores
    evaluate_to_folder(*llava, load_suites(["color"], num_items=2), tmp_path / "out", name="tiny", progress=False)
    assert len(values_of(read_scores(tmp_path / "out"), "color", "correct")) == 2, "changed items are scored again"


def test_a_folder_of_other_weights_is_refused(llava: tuple[Any, Any], tmp_path: Path) -> None:
    suites = load_suites(["color"], num_items=2)
    evaluate_to_folder(*llava, suites, tmp_path / "out", name="tiny", progress=False)
    other = tiny_chat_model("llava", seed=1)
    with pytest.raises(TextanchorError, match="other weights"):
        evaluate_to_folder(*other, suites, tmp_path / "out", name="other", progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(TextanchorError, match="not empty"):
        evaluate_to_folder(*llava, suites, tmp_path / "mine", name="tiny", progress=False)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("finished.json", lambda text: "{}"),
        ("finished.json", lambda text: "[" + text + "]"),
        ("finished.json", lambda text: text.replace('"color"', '"colour"')),
        ("finished.json", lambda text: text[:-20]),
        ("scores.jsonl", lambda text: text.replace('"value": 0.0', '"value": 1.0', 1)),
        ("scores.jsonl", lambda text: "".join(text.splitlines(keepends=True)[1:])),
        ("scores.jsonl", lambda text: text + text.splitlines(keepends=True)[0]),
    ],
)
def test_what_was_changed_since_is_not_taken_for_finished(
    file: str, change: Callable[[str], str], llava: tuple[Any, Any], tmp_path: Path
) -> None:
    suites = load_suites(["color"], num_items=4)
    evaluate_to_folder(*llava, suites, tmp_path / "out", name="tiny", progress=False)
    path = tmp_path / "out" / file
    before = path.read_text(encoding="utf-8")
    path.write_text(change(before), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != before
    with pytest.raises(DataError, match=file):
        evaluate_to_folder(*llava, suites, tmp_path / "out", name="tiny", progress=False)


def test_damaged_rows_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text('{"suite": "color"}\n', encoding="utf-8")
    with pytest.raises(TextanchorError, match="line 1"):
        read_scores(tmp_path)
    (tmp_path / "scores.jsonl").write_text("{torn\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        read_scores(tmp_path)
    (tmp_path / "scores.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no scores"):
        read_scores(tmp_path)
