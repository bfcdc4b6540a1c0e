"""Prompts and data of the shipped suites are frozen: whoever changes one raises the suite's version."""

import pytest

from helpers.frozen_suites import asked_by, frozen, main
from textanchor.evaluation.registry import SUITES

FETCHED = {"easy_vqa"}
NAMES = [pytest.param(name, marks=pytest.mark.registry) if name in FETCHED else name for name in SUITES]


@pytest.mark.parametrize("name", NAMES)
def test_it_asks_what_it_asked(name: str) -> None:
    found, before = asked_by(name), frozen()[name]
    changed = [key for key in found if found[key] != before.get(key)]
    if found["version"] == before["version"]:
        assert not changed, f"{name} asks otherwise ({', '.join(changed)}): raise its version, then freeze it anew"
    else:
        pytest.fail(f"{name} has a new version: freeze it anew with `python -m helpers.frozen_suites` in tests/")


def test_every_shipped_suite_is_frozen() -> None:
    assert frozen().keys() == SUITES.keys()


def test_it_is_not_frozen_anew_under_the_same_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.frozen_suites.SUITES", ["count"])
    monkeypatch.setattr("textanchor.data.scene_questions.COUNT_WORDS", ("one", "two", "three", "many"))
    with pytest.raises(SystemExit, match="count: ask otherwise"):
        main()


def test_a_changed_prompt_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textanchor.data.digits.QUESTION", "Which digit is it?")
    found, before = asked_by("digits"), frozen()["digits"]
    assert found["prompts"] != before["prompts"]
    assert found["suite"] != before["suite"]
    assert found["answers"] == before["answers"]
