"""While one command is at work on an output, a second one is refused, and the first one's output comes out whole."""

from pathlib import Path

import pytest

from helpers.faults import Command, Moment, textanchor
from helpers.study import SHORT, VERBS, hidden

AT_WORK = {
    "adapt": Moment("os.mkdir", "checkpoint-2$"),
    "evaluate": Moment("os.rename", "scores.jsonl$"),
    "compare": Moment("os.rename", "/runs/"),
    "repair": Moment("os.rename", "repair.json$"),
    "diff": Moment("os.rename", "diff.html$"),
}


@pytest.mark.parametrize("verb", SHORT)
def test_the_second_is_refused(verb: str, place: Path, study: Path) -> None:
    command = VERBS[verb]
    first = Command(place, *command.arguments, at=AT_WORK[verb], then="wait")
    first.wait_until_reached()
    others = [command.arguments, ("diff", "model", "tuned", "--out", f"../study/{command.output}/")]
    if verb == "adapt":
        others.append((*command.arguments, "--resume"))
    for arguments in others:
        second = textanchor(place, *arguments)
        assert second.code == 2 and "Traceback" not in second.said
        assert f"{command.output}: is in use, another run of textanchor is writing there" in second.said
    done = first.done()
    assert done.code == 0, done.said
    assert command.content(place / command.output) == command.content(study / command.output)
    assert hidden(place) == []


def test_a_stopped_process_keeps_its_place_and_a_dead_one_does_not(place: Path) -> None:
    arguments = VERBS["diff"].arguments
    first = Command(place, *arguments, at=AT_WORK["diff"], then="wait")
    first.wait_until_reached()
    assert textanchor(place, *arguments).code == 2
    first.kill()
    assert first.done().code == -9
    assert textanchor(place, *arguments).code == 0
    assert hidden(place) == []
