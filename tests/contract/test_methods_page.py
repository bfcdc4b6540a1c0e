"""docs/methods.md is what the methods' own docstrings say, and leaves none out."""

import runpy
from pathlib import Path

import pytest

from textanchor.methods import METHODS


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "methods.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date(repository: Path, page: str) -> None:
    written = runpy.run_path(str(repository / "docs" / "make_methods.py"))["page"]()
    assert page == written, "run: python docs/make_methods.py"


def test_every_method_has_a_section_with_its_source(page: str) -> None:
    for name in METHODS:
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert "Source:" in section, name


def test_what_is_not_reproduced_is_said(page: str) -> None:
    missing = page.partition("## Not reproduced")[2]
    assert "SPIDER" in missing
    assert "Model-Dowser" in missing
