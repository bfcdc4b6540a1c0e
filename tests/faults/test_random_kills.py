"""Fifty kills at random moments, over all verbs: `pytest -m long tests/faults`, as no change needs them every time."""

import random
import shutil
import time
from pathlib import Path

import pytest

from helpers.faults import Command, textanchor
from helpers.study import VERBS, assert_goes_on, hidden

KILLS = {"adapt": 14, "evaluate": 10, "compare": 12, "repair": 6, "diff": 3, "measure": 5}


@pytest.mark.long
@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_random(verb: str, study: Path, place: Path) -> None:
    command, chance = VERBS[verb], random.Random(verb)
    began = time.monotonic()
    if not (study / command.output).exists():
        assert textanchor(study, *command.arguments).code == 0
    else:
        assert textanchor(place, *command.arguments).code == 0
        shutil.rmtree(place / command.output)
    whole = time.monotonic() - began
    killed = 0
    while killed < KILLS[verb]:
        again = ["--resume"] if any(place.glob("adapted.checkpoints/checkpoint-*/textanchor.json")) else []
        running = Command(place, *command.arguments, *again)
        time.sleep(chance.uniform(0, whole))
        running.kill()
        ended = running.done()
        assert ended.code in (-9, 0), ended.said
        killed += ended.code == -9
        is_there = (place / command.output).exists()
        if is_there and not command.grows:
            assert command.content(place / command.output) == command.content(study / command.output)
        if is_there and (ended.code == 0 or not command.grows):
            textanchor(place, *command.arguments)
            assert hidden(place) == []
            shutil.rmtree(place / command.output)
        elif chance.random() < 0.5:  # else it is killed again on its way
            assert_goes_on(verb, place, study)
            shutil.rmtree(place / command.output)
    assert_goes_on(verb, place, study)
