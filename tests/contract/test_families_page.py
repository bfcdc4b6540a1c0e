"""docs/families.md says what works in each family: some are tried at once, all of them in the long run."""

from pathlib import Path

import pytest

from helpers.families_page import entries, page, written
from helpers.family_table import FamilyRow, TriedFamily
from helpers.tiny_models import model_type_of
from textanchor.vlm.families import FAMILIES

TRIED_AT_ONCE = ("llava", "gemma3", "qwen3_vl_moe", "llama4", "kosmos-2.5", "blip")
"""An MLP, a bare parameter, deepstack with experts, a late projector, other names of inputs, no projector."""
LEAST_FOUND, LEAST_PASSING = 88, 80


@pytest.fixture(scope="module")
def lines(repository: Path) -> dict[str, str]:
    text = (repository / "docs" / "families.md").read_text(encoding="utf-8")
    table = text.partition("| family |")[2].splitlines()[2:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in table}


def test_the_page_has_each_family_once(lines: dict[str, str]) -> None:
    assert list(lines) == sorted(FAMILIES)
    assert {model_type_of(name) for name in entries()} <= lines.keys()


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.lacks])
def test_a_refusal_stands_there_in_its_own_words(name: str, lines: dict[str, str]) -> None:
    assert lines[name].startswith(f"| {name} | {FAMILIES[name].lacks} | - |")


@pytest.mark.parametrize("name", TRIED_AT_ONCE)
def test_the_page_says_what_is_found_now(name: str, lines: dict[str, str]) -> None:
    row = TriedFamily(name).row()
    assert lines[row.model_type] == written(row)


@pytest.mark.long
def test_all_families_are_tried_and_the_page_written(repository: Path) -> None:
    """It writes the page and fails where that changed, for somebody to look at."""
    path = repository / "docs" / "families.md"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    rows: list[FamilyRow] = [TriedFamily(name).row() for name in entries()]
    path.write_text(page(rows), encoding="utf-8")
    assert sum(row.cells[0] == "works" or bool(FAMILIES[row.model_type].lacks) for row in rows) >= LEAST_FOUND
    assert sum(row.passes for row in rows) >= LEAST_PASSING
    assert path.read_text(encoding="utf-8") == before, "docs/families.md changed: look at the difference and commit it"
