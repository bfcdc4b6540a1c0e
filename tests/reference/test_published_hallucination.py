"""POPE and CHAIR against the rules of their authors' scripts, item by item on 200 made-up sentences each.

The scripts are github.com/AoiDragon/POPE (evaluate.py, 08d957b9) and github.com/LisaAnne/Hallucination (utils/chair.py,
6e4d33c4); what follows is written anew from their rules. CHAIR's stand on nltk's words and pattern's singulars, which
are given here as a table (taken from pattern 3.6). Every template whose sentences are read otherwise names the reason,
which docs/evaluation.md explains; all the others have to agree.
"""

import re
from itertools import product
from pathlib import Path

import pytest

from textanchor.data.hallucination import ObjectVocabulary
from textanchor.evaluation.results.chair import chair_metrics, count_mentions
from textanchor.evaluation.results.pope import pope_metrics
from textanchor.evaluation.scoring.parsing import parse_yes_no, parse_yes_no_as_published

THINGS = ("dog", "red cup", "bus", "traffic light", "person", "umbrella", "pizza", "surfboard")

# what a model answers to "Is there a ...?"; why POPE's script reads it otherwise than we do
ANSWERS: list[tuple[str, str | None]] = [
    ("Yes", None),
    ("No", None),
    ("no", None),
    ("Yes, there is a {}.", None),
    ("No, there is no {} in the image.", None),
    ("There is a {} on the left.", None),
    ("There is not a {} here.", None),
    ("There is no {}.", None),
    ("I can see a {} in the picture", None),
    ("The image does not show a {}.", None),
    ("yes a {}", None),
    ("It is a {}, yes.", None),
    ("NO", "spelling"),
    ("no!", "spelling"),
    ('"No"', "spelling"),
    ("No\nThe image shows a {}.", "spelling"),
    ("Nope, only a {}.", "negation"),
    ("There isn't a {}.", "negation"),
    ("None of these is a {}.", "negation"),
    ("1. No, there is no {}.", "number"),
    ("<think>There is no {}? Look again.</think> Yes", "thought"),
    ("Yes, and not only a {}.", "first word"),
    ("A {}.", "unread"),
    ("The {} has a colour that I like", "unread"),
    ("", "unread"),
]

SYNONYMS = """\
person, man, woman, child, grandchild, baby, adult, passenger, rider
dog, puppy
cat, kitten
bus
train
airplane, jet
chair, seat
toilet
tie
hot dog
wine glass
boat, canoe
elephant
bicycle, mountain bike
"""
SINGULARS = {
    **{"men": "man", "women": "woman", "people": "person", "children": "child", "grandchildren": "grandchild"},
    **{"babies": "baby", "dogs": "dog", "puppies": "puppy", "cats": "cat", "kittens": "kitten", "buses": "bus"},
    **{"bus": "bu", "trains": "train", "tracks": "track", "jets": "jet", "chairs": "chair", "seats": "seat"},
    **{"ties": "ty", "glass": "glas", "glasses": "glass", "canoes": "cano", "elephants": "elephant", "bikes": "bike"},
    **{"toilets": "toilet", "boats": "boat", "airplanes": "airplane", "adults": "adult", "riders": "rider"},
    **{"passengers": "passenger"},
}
PAIRS = {
    **{pair: pair for pair in ("hot dog", "home plate", "train track")},
    **{f"{age} elephant": "elephant" for age in ("baby", "adult")},
    **{f"{age} dog": "dog" for age in ("baby", "adult")},
    **{"passenger jet": "jet", "passenger train": "train"},
    **{"bow tie": "tie", "toilet seat": "toilet", "wine glass": "wine glass", "wine glas": "wine glass"},
}

OTHERS = ("a man", "two dogs", "a cat", "three people", "an airplane", "kittens", "a wine glass", "the women")

# a caption; why CHAIR's script counts it otherwise than we do
CAPTIONS: list[tuple[str, str | None]] = [
    ("{} next to a train.", None),
    ("{}, two elephants and a baby elephant", None),
    ("A passenger train passes {}", None),
    ("{} and a passenger jet on the ground.", None),
    ("A bow tie lies beside {}.", None),
    ("{} on the train tracks", None),
    ("{} at home plate", None),
    ("{} eat hot dogs.", None),
    ("The dog's tail is near {}.", None),
    ("The dog\u2019s bowl and {}", None),
    ("{} sit in the children's room", None),
    ("{} and the grandchildren", None),
    ("There is no dog, only {}.", None),
    ("The seat of the toilet is beside {}", None),
    ("A toilet seat, and {}.", None),
    ("{} on the seats", None),
    ("{} with wine glasses.", None),
    ("Puppies, {}; boats!", None),
    ("A bus waits for {}.", "singular"),
    ("{} in ties", "singular"),
    ("Canoes carry {}.", "singular"),
    ("A hot-dog stand, {}", "hyphen"),
    ("{} on a horse-drawn, dog-friendly boat.", "hyphen"),
    ("{} ride mountain bikes", "two words"),
    ("{} left.Dogs remain.", "no space"),
]


def published_is_yes(answer: str) -> bool:
    """The text to the first period, without commas, at spaces: a yes unless No, not or no is among its words."""
    if "." in answer:
        answer = answer[: answer.index(".")]
    found = [word for word in answer.replace(",", "").split(" ") if word in ("No", "not", "no")]
    return len(found) == 0


def published_objects(caption: str) -> list[str]:
    """Words as nltk has them, each in the singular; pairs as one; no seat beside a toilet; then what the list names."""
    names = {name: line.split(", ")[0] for line in SYNONYMS.split("\n") for name in line.split(", ") if name}
    words = re.findall(r"[a-z]+(?:[-.][a-z]+)*|[^\sa-z]", caption.lower().replace("'s", " s"))
    words = [SINGULARS.get(word, word) for word in words]
    merged: list[str] = []
    while words:
        pair = " ".join(words[:2])
        merged.append(PAIRS.get(pair, words[0]))
        words = words[2 if pair in PAIRS else 1 :]
    if "toilet" in merged and "seat" in merged:
        merged = [word for word in merged if word != "seat"]
    return [names[word] for word in merged if word in names]


def sentences(templates: list[tuple[str, str | None]], things: tuple[str, ...]) -> list[tuple[str, str | None]]:
    return [(template.replace("{}", thing), reason) for (template, reason), thing in product(templates, things)]


def test_there_are_two_hundred_of_each() -> None:
    assert len(sentences(ANSWERS, THINGS)) == len(sentences(CAPTIONS, OTHERS)) == 200


@pytest.mark.parametrize(("template", "reason"), ANSWERS)
def test_answers_are_read_as_by_popes_script_or_for_a_reason_otherwise(template: str, reason: str | None) -> None:
    for answer, _ in sentences([(template, reason)], THINGS):
        theirs, ours = published_is_yes(answer), parse_yes_no(answer)
        assert parse_yes_no_as_published(answer) is theirs
        assert (ours is not theirs) == (reason is not None), answer
        assert (ours is None) == (reason == "unread"), answer


def test_popes_numbers_differ_by_those_answers_alone() -> None:
    answers = [answer for answer, _ in sentences(ANSWERS, THINGS)]
    gold = [number % 3 != 0 for number in range(len(answers))]
    theirs = [published_is_yes(answer) for answer in answers]
    metrics = pope_metrics([parse_yes_no_as_published(answer) for answer in answers], gold)
    hits = sum(said and right for said, right in zip(theirs, gold, strict=True))  # their TP, and so on
    alarms = sum(said and not right for said, right in zip(theirs, gold, strict=True))
    misses = sum(not said and right for said, right in zip(theirs, gold, strict=True))
    precision, recall = hits / (hits + alarms), hits / (hits + misses)
    assert metrics.precision == pytest.approx(precision) and metrics.recall == pytest.approx(recall)
    assert metrics.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert metrics.accuracy == pytest.approx(sum(a is b for a, b in zip(theirs, gold, strict=True)) / len(gold))
    assert metrics.yes_ratio == pytest.approx(theirs.count(True) / len(gold))
    ours = pope_metrics([parse_yes_no(answer) for answer in answers], gold)
    assert metrics.yes_ratio > ours.yes_ratio and metrics.unparsed == 0 < ours.unparsed


@pytest.fixture
def vocabulary(tmp_path: Path) -> ObjectVocabulary:
    (tmp_path / "synonyms.txt").write_text(SYNONYMS, encoding="utf-8")
    return ObjectVocabulary.load(tmp_path / "synonyms.txt")


@pytest.mark.parametrize(("template", "reason"), CAPTIONS)
def test_captions_name_what_they_name_to_chairs_script_or_for_a_reason_other_things(
    vocabulary: ObjectVocabulary, template: str, reason: str | None
) -> None:
    for caption, _ in sentences([(template, reason)], OTHERS):
        assert (vocabulary.mentions(caption) != published_objects(caption)) == (reason is not None), caption


def test_chair_of_the_captions_that_are_counted_alike(vocabulary: ObjectVocabulary) -> None:
    captions = [caption for caption, reason in sentences(CAPTIONS, OTHERS) if reason is None]
    present = [("dog", "person", "train")[: 1 + number % 3] for number in range(len(captions))]
    named = [published_objects(caption) for caption in captions]
    wrong = [[name for name in own if name not in there] for own, there in zip(named, present, strict=True)]
    metrics = chair_metrics([count_mentions(*pair, vocabulary) for pair in zip(captions, present, strict=True)])
    assert metrics.chair_i == pytest.approx(sum(map(len, wrong)) / sum(map(len, named)))
    assert metrics.chair_s == pytest.approx(sum(map(bool, wrong)) / len(captions))


def test_every_reason_is_explained_to_the_reader(repository: Path) -> None:
    told = (repository / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for reason in {reason for _, reason in (*ANSWERS, *CAPTIONS) if reason is not None}:
        assert f"| {reason} |" in told, reason
