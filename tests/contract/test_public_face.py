"""`import textanchor as ta` offers the names that the documentation starts from, and only those."""

import ast
from pathlib import Path

import pytest

import textanchor

FIRST_READ = {  # the names that users learn first; they are kept
    *("find_parts", "fit_anchor", "Anchor", "plan_holds", "FilterConfig", "HoldPlan", "attach", "AnchorCallback"),
    *("load_vlm", "adapt", "AdaptConfig"),
}


def imports_for_types(path: Path) -> dict[str, str]:
    """Name -> module of the imports under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    return {a.name: node.module or "" for node in block.body if isinstance(node, ast.ImportFrom) for a in node.names}


@pytest.mark.parametrize("name", textanchor.__all__)
def test_every_public_name_can_be_used(name: str) -> None:
    assert getattr(textanchor, name) is not None


def test_names_are_listed_in_one_way_only() -> None:
    assert imports_for_types(Path(textanchor.__file__)) == textanchor._HOME
    assert set(textanchor.__all__) == textanchor._HOME.keys() | {"__version__"}
    assert set(dir(textanchor)) == set(textanchor.__all__)
    assert set(textanchor.__all__) >= FIRST_READ


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'find_partz'"):
        _ = textanchor.find_partz
