"""The committed page and tables are what the committed records give, and those are small."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from make_evidence import evidence

from helpers.imports import Import, imports_of
from textanchor.experiment.code import CHANGE_NO_RECORD

MOST_BYTES = 100_000


def reached_from(module: str, imports: Iterable[Import]) -> set[str]:
    """Our modules that are imported on the way, late imports among them."""
    targets: dict[str, set[str]] = defaultdict(set)
    for found in imports:
        if not found.for_types:
            targets[found.importer].add(found.target)
    reached, left = set(), [module]
    while left:
        name = left.pop()
        if name.startswith("textanchor") and name not in reached:
            reached.add(name)
            left += targets[name]
    return reached


def test_page_and_tables_are_what_the_records_give(repository: Path) -> None:
    folder = repository / "docs" / "evidence"
    for name, content in evidence(folder).items():
        assert (folder / name).read_text(encoding="utf-8") == content, "run: make evidence"


def test_records_of_comparisons_are_small(repository: Path) -> None:
    records = (repository / "docs" / "evidence" / "compare").glob("*/runs/*.json")
    assert {path.name: size for path in records if (size := path.stat().st_size) > MOST_BYTES} == {}


def test_what_is_left_out_of_the_code_hash_is_there_and_no_run_goes_through_it(repository: Path) -> None:
    package = repository / "src" / "textanchor"
    assert all((package / name).exists() for name in CHANGE_NO_RECORD)
    left_out = {f"textanchor.{name.removesuffix('.py').replace('/', '.')}" for name in CHANGE_NO_RECORD}
    reached = reached_from("textanchor.experiment.run", imports_of(repository / "src"))
    assert len(reached) > 50
    assert sorted(m for m in reached if any(f"{m}.".startswith(f"{out}.") for out in left_out)) == []
