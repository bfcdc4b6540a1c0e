"""What geometry.json must hold: each wrong place is named by its key path."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from textanchor.errors import DataError
from textanchor.report.documents import GEOMETRY


@pytest.fixture(scope="module")
def measured(repository: Path) -> dict[str, Any]:
    content = json.loads((repository / "docs" / "evidence" / "geometry" / "scenes.json").read_text())
    points = [[0.5, 1.0], [0.0, -1.0]]  # the committed records have no maps
    return content | {"gap_map": [{"depth": 0, "visual": points, "text": points}]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda g: g.update(depths=[]), "`depths` is empty"),
        (lambda g: g.update(claims=[]), "`verdicts[0]` is of C1 anisotropy, which is none of the `claims`"),
        (lambda g: g["claims"][0].update(interval=[0.5]), "`claims[0].interval` is [0.5], expected two numbers"),
        (lambda g: g["spectra"].pop("text 0"), "`text 0` and `visual 0`"),
        (lambda g: g["spectra"].update({"visual 30": [0.0] * 64}), "`text 30` and `visual 30`"),
        (lambda g: g["places"].update({"text last": g["places"]["text 0"]}), "expected `text DEPTH` among them"),
        (lambda g: g["places"]["text 7"]["measures"].pop("mean_cosine"), "`places.text 7.measures.mean_cosine` is"),
        (lambda g: g["random_weights"][0].update(measures={}), "`random_weights[0].measures.participation_ratio` is"),
        (lambda g: g["subspaces"][1]["angles"].pop(), "rows of different numbers of `angles`"),
        (lambda g: g.update(coverage=[]), "`coverage` is empty, and `subspaces` is not"),
        (lambda g: g["gap_map"][0].update(text=[]), "key `gap_map[0].text` is empty"),
        (lambda g: g["gap_map"][0]["text"].append([1.0]), "is [1.0], expected two numbers"),
        (lambda g: g.update(data={}), "key `data.name` is missing"),
        (lambda g: g["integration"].update(rate=10**400), "`integration.rate` is a whole number of more than 300"),
    ],
)
def test_what_cannot_be_drawn_is_named(
    measured: dict[str, Any], change: Callable[[dict[str, Any]], Any], told: str
) -> None:
    changed = copy.deepcopy(measured)
    change(changed)
    with pytest.raises(DataError) as caught:
        GEOMETRY.render(changed, source="m/geometry.json")
    assert str(caught.value).startswith("m/geometry.json is not a measurement that can be shown: ")
    assert told in str(caught.value)
    assert GEOMETRY.render(measured)
