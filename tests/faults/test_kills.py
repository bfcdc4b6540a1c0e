"""Killed at chosen moments, every command goes on to the output of an uninterrupted one and leaves nothing behind."""

from pathlib import Path

import pytest

from helpers.faults import Moment, textanchor
from helpers.study import VERBS, assert_goes_on, hidden

MOMENTS = {
    "adapt": {
        "before the first checkpoint": Moment("os.mkdir", "checkpoint-2$"),
        "before a checkpoint is complete": Moment("os.rename", "checkpoint-4/textanchor.json$"),
        "after the last step": Moment("os.rename", "checkpoint-5/textanchor.json$"),
        "in the middle of the output": Moment("open", r"tmp\.adapted/.*tokenizer_config"),
        "before the output has its name": Moment("os.rename", "/adapted$"),
    },
    "evaluate": {
        "at its first file": Moment("os.rename", "finished.json$"),
        "between two batches": Moment("open", r"journals/.*jsonl$", 3),
        "between rows and state": Moment("os.rename", "finished.json$", 3),
        "before its record": Moment("os.rename", "run.json$"),
    },
    "compare": {
        "in the first run": Moment("os.mkdir", "scratch/anchors/"),
        "at its first record": Moment("os.rename", "/runs/"),
        "at its second record": Moment("os.rename", "/runs/", 2),
        "before the report": Moment("os.rename", "report.html$"),
    },
    "repair": {
        "in the middle of the output": Moment("open", "repair.json$"),
        "before the output has its name": Moment("os.rename", "/repaired$"),
    },
    "diff": {"in the middle of the output": Moment("os.rename", "diff.html$")},
}


@pytest.mark.parametrize(("verb", "when"), [(verb, when) for verb, moments in MOMENTS.items() for when in moments])
def test_killed(verb: str, when: str, place: Path, study: Path) -> None:
    killed = textanchor(place, *VERBS[verb].arguments, at=MOMENTS[verb][when])
    assert killed.code == -9, killed.said
    if not VERBS[verb].grows:
        assert not (place / VERBS[verb].output).exists(), "there whole or not at all"
    assert_goes_on(verb, place, study)


def test_killed_while_the_checkpoints_are_removed(place: Path, study: Path) -> None:
    """The output is there, so nothing is run again; what is left of the run goes with the next call."""
    killed = textanchor(place, "adapt", "adapt.yaml", at=Moment("shutil.rmtree", r"adapted\.checkpoints$"))
    assert killed.code == -9, killed.said
    assert (place / "adapted.checkpoints").exists()
    assert VERBS["adapt"].content(place / "adapted") == VERBS["adapt"].content(study / "adapted")
    again = textanchor(place, "adapt", "adapt.yaml")
    assert again.code == 2 and "the output folder is not empty" in again.said
    assert not (place / "adapted.checkpoints").exists() and hidden(place) == []
