"""A package imports only from lower layers, nothing imports in a circle, and no file grows too long."""

import graphlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from helpers.imports import Import, imports_of, module_files

PACKAGE = "textanchor"
GROUND = ("errors", "outputs", "files", "bounds", "strict_yaml", "config", "records", "stats", "tables", "fetch")
LAYERS = {
    **dict.fromkeys(GROUND, 0),
    **dict.fromkeys(("spectral", "report"), 1),
    **dict.fromkeys(("vlm", "data", "geometry"), 2),
    "holds": 3,
    "diffs": 4,
    "evaluation": 4,
    "training": 5,
    "methods": 6,
    **dict.fromkeys(("analysis", "demo", "repairs"), 7),
    "experiment": 8,
    "cli": 9,
}

HEAVY = {"torch", "transformers", "peft", "accelerate", "safetensors", "matplotlib", "scipy", "sklearn", "skimage"}
FRAMEWORKS = {"transformers", "peft", "accelerate"}
FORBIDDEN = {
    **dict.fromkeys(GROUND, HEAVY),
    **dict.fromkeys(("spectral", "geometry"), FRAMEWORKS),
    "report": {"torch", "safetensors"} | FRAMEWORKS,
    "data": {"torch", "safetensors"} | FRAMEWORKS,
    "holds": FRAMEWORKS,
    "vlm.parts": FRAMEWORKS,
    "vlm.families": FRAMEWORKS,
    "vlm.capture": FRAMEWORKS,
}
"""Part of the package -> libraries that it does without, so that it can be used without them."""

MOST_LINES = 320


@pytest.fixture(scope="module")
def source(repository: Path) -> Path:
    return repository / "src"


def unit_of(module: str) -> str | None:
    """First name below the package, which has a layer; None for the package itself and for other libraries."""
    root, *names = module.split(".")
    return names[0] if root == PACKAGE and names else None


def layer_violations(imports: Iterable[Import]) -> list[str]:
    wrong = []
    for found in imports:
        importer, target = unit_of(found.importer), unit_of(found.target)
        if importer is None or target is None or importer == target:
            continue  # the package itself is lazy; `from textanchor import __version__` loads nothing more
        same_ground = LAYERS[importer] == LAYERS[target] == 0
        if LAYERS[target] >= LAYERS[importer] and not same_ground and not found.for_types:
            wrong.append(f"{found.importer}:{found.line} (layer {LAYERS[importer]}) imports {found.target}")
    return wrong


def load_cycle(imports: Iterable[Import]) -> list[str]:
    graph: dict[str, set[str]] = defaultdict(set)
    for found in imports:
        if found.at_load and found.target.startswith(PACKAGE) and found.target not in (found.importer, PACKAGE):
            graph[found.importer].add(found.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def forbidden_imports(imports: Iterable[Import]) -> list[str]:
    return [
        f"{found.importer}:{found.line} imports {found.target}"
        for found in imports
        for part, libraries in FORBIDDEN.items()
        if f"{found.importer}.".startswith(f"{PACKAGE}.{part}.")
        and found.target.split(".")[0] in libraries
        and not found.for_types
    ]


def test_every_part_of_the_package_has_a_layer(source: Path) -> None:
    assert {unit for unit in map(unit_of, module_files(source)) if unit} <= LAYERS.keys()


def test_imports_go_to_lower_layers(source: Path) -> None:
    assert layer_violations(imports_of(source)) == []


def test_nothing_imports_in_a_circle(source: Path) -> None:
    assert load_cycle(imports_of(source)) == []


def test_libraries_stay_where_they_belong(source: Path) -> None:
    assert forbidden_imports(imports_of(source)) == []


def test_files_can_be_read_in_one_go(source: Path) -> None:
    lengths = {name: path.read_text(encoding="utf-8").count("\n") for name, path in module_files(source).items()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def plant(folder: Path, files: dict[str, str]) -> list[Import]:
    for name, text in files.items():
        path = folder / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return imports_of(folder)


@pytest.mark.parametrize(
    "statement",
    [
        "from textanchor.vlm.parts import find_parts",
        "from textanchor.vlm import parts",
        "import textanchor.vlm.parts",
        "from ..vlm.parts import find_parts",
        "from ..vlm import parts",
        "def f():\n    from textanchor.vlm.parts import find_parts",
        "if True:\n    import textanchor.vlm.parts",
    ],
)
def test_a_planted_layer_violation_is_seen(tmp_path: Path, statement: str) -> None:
    imports = plant(tmp_path, {"spectral/basis.py": statement, "vlm/parts.py": "", "vlm/__init__.py": ""})
    assert len(layer_violations(imports)) == 1


def test_allowed_imports_are_not_violations(tmp_path: Path) -> None:
    text = (
        "import torch\nfrom typing import TYPE_CHECKING\nfrom textanchor import __version__\n"
        "from textanchor.errors import DataError\nfrom textanchor.vlm.parts import find_parts\n"
        "if TYPE_CHECKING:\n    from textanchor.training.hf import AnchorCallback\n"
    )
    imports = plant(tmp_path, {"vlm/capture.py": text, "vlm/parts.py": "", "errors.py": "", "training/hf.py": ""})
    assert layer_violations(imports) == []


def test_a_planted_circle_is_seen(tmp_path: Path) -> None:
    files = {"files.py": "from textanchor.config import a", "config.py": "import textanchor.files"}
    assert len(load_cycle(plant(tmp_path / "at_load", files))) == 3
    files["config.py"] = "def f():\n    import textanchor.files"
    assert load_cycle(plant(tmp_path / "late", files)) == []


def test_a_planted_library_is_seen(tmp_path: Path) -> None:
    files = {"report/html.py": "def f():\n    import torch.nn", "reporting.py": "import torch"}
    assert len(forbidden_imports(plant(tmp_path, files))) == 1
