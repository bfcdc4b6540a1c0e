"""From a matrix to its cells, and what decides whether a record is theirs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from textanchor.errors import ConfigError, OutputError
from textanchor.experiment import code
from textanchor.experiment.cells import Cell, expand, load_matrix
from textanchor.experiment.command import compare

RATES = {"projector": 1e-3, "language_model": 2e-4}
MATRIX: dict[str, Any] = {
    "name": "small",
    "defaults": {
        "model": "embedded",
        "data": {"num_images": 8},
        "parts": {
            "projector": {"train": "full", "learning_rate": RATES["projector"]},
            "language_model": {"train": "lora", "learning_rate": RATES["language_model"], "rank": 4},
        },
        "training": {"max_steps": 4},
    },
    "tasks": {"digits": {}, "reading": {"set": {"data.task": "words"}, "suite": "words", "retained": ["color"]}},
    "arms": {
        "plain": {"learning_rates": [1, 0.5]},
        "l2sp": {
            "set": {"method": {"name": "l2sp", "strength": 0.1}, "parts.language_model": {"train": "frozen"}},
            "strengths": {"method.strength": [0.1, 1.0]},
        },
    },
    "seeds": [0, 7],
}
APP = {"mode": "inputs", "kept_fraction": 0.5}


def cells(folder: Path, **changes: Any) -> list[Cell]:
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump({**MATRIX, **changes}, sort_keys=False))
    return expand(load_matrix(path))


def only_arm(folder: Path, **arm: Any) -> list[Cell]:
    return cells(folder, arms={"arm": arm}, tasks={"digits": {}}, seeds=[0])


def test_every_arm_at_every_strength_and_rate_on_every_task_with_every_seed(tmp_path: Path) -> None:
    found = cells(tmp_path)
    assert len(found) == 2 * 2 * (2 + 2)
    assert [cell.name for cell in found[:5]] == [
        "plain__x1__digits__s0",
        "plain__x0.5__digits__s0",
        "l2sp__strength=0.1__x1__digits__s0",
        "l2sp__strength=1__x1__digits__s0",
        "plain__x1__reading__s0",
    ]
    assert [cell.seed for cell in found] == [0] * 8 + [7] * 8
    half, strong, reading = found[1], found[3], found[4]
    parts = half.config.trained_parts
    assert (parts.projector.learning_rate, parts.language_model.learning_rate) == (5e-4, 1e-4)
    assert strong.config.method == {"name": "l2sp", "strength": 1.0}
    assert strong.config.trained_parts.language_model.train == "frozen"
    assert (reading.config.data.task, reading.suite, reading.retained) == ("words", "words", ("color",))
    assert half.retained is None
    assert "digits" not in half.candidates
    assert found[-1].config.training.seed == 7


def test_several_keys_move_together(tmp_path: Path) -> None:
    found = only_arm(
        tmp_path,
        set={"method": {"name": "app", "projector": APP, "language_model": APP, "anchor": "anchor"}},
        strengths={"method.projector.kept_fraction": [0.1, 0.2], "method.language_model.kept_fraction": [0.3, 0.4]},
    )
    assert [cell.strength for cell in found] == ["kept_fraction=0.1+0.3", "kept_fraction=0.2+0.4"]
    method = found[1].config.method
    assert (method["projector"]["kept_fraction"], method["language_model"]["kept_fraction"]) == (0.2, 0.4)


def test_a_mapping_as_strength_has_a_short_name(tmp_path: Path) -> None:
    found = only_arm(tmp_path, strengths={"parts.projector": [{"train": "frozen"}, {"train": "full"}]})
    assert [cell.strength for cell in found] == ["projector=v1", "projector=v2"]


def test_rates_of_single_parts(tmp_path: Path) -> None:
    (cell,) = only_arm(tmp_path, learning_rates=[{"projector": 1e-4, "language_model": 1e-5}])
    assert cell.rate == "projector=0.0001_language_model=1e-05"
    assert cell.config.trained_parts.language_model.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("arm", "fragments"),
    [
        ({"sett": {}}, ["arms.arm.sett", "did you mean 'set'"]),
        ({"set": {"method": {"name": "l2spp"}}}, ["cell arm__x1__digits__s0", "did you mean 'l2sp'"]),
        ({"set": {"training": {"max_stepps": 3}}}, ["cell arm__x1__digits__s0", "did you mean 'max_steps'"]),
        ({"set": {"training.seed": 3}}, ["training.seed", "the matrix has seeds"]),
        ({"set": {"output": "x"}}, ["'output'", "no models"]),
        ({"set": {"training": {"max_steps": None, "epochs": 1.0}}}, ["training.max_steps"]),
        ({"learning_rates": [{"projector": 1e-4}]}, ["language_model is amiss"]),
        ({"learning_rates": [0]}, ["greater than 0"]),
        ({"strengths": {"method.a": [1], "method.b": [1, 2]}}, ["equally many"]),
        ({"strengths": {"training.weight_decay": [0.1, 0.1]}}, ["two cells are called"]),
        ({"wise_ft": [1.0]}, ["between 0 and 1"]),
        ({"set": {"method": {"name": "zero_shot"}, "parts": None}, "wise_ft": [0.5]}, ["zero_shot does not count"]),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path: Path, arm: dict[str, Any], fragments: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        only_arm(tmp_path, **arm)
    for fragment in fragments:
        assert fragment in str(error.value)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"arms": {"a" * 300: {}}}, "characters, too long for its files"),
        ({"tasks": {"digit": {}}}, "did you mean 'digits'"),
        ({"tasks": {"digits": {"retained": ["colour"]}}}, "did you mean 'color'"),
        ({"tasks": {"digits": {"retained": ["digits"]}}}, "the new task itself"),
        ({"seeds": [1, 1]}, "each once"),
        ({"name": "a__b"}, "single underscores"),
        ({"evaluation": {"test_items": 2, "free_items": 3}}, "free_items"),
        ({"evaluation": {"texts": 0}}, "texts must be at least 1"),
    ],
)
def test_other_mistakes(tmp_path: Path, changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment):
        cells(tmp_path, **changes)


def test_only_filters_and_says_what_there_is(tmp_path: Path) -> None:
    cells(tmp_path)
    said: list[str] = []

    def left(*only: str) -> int:
        return compare(tmp_path / "matrix.yaml", tmp_path / "out", only=only, dry_run=True, say=said.append).num_left

    assert left() == 16
    assert left("arm=plain") == 8
    assert left("arm=pl*,l2sp", "seed=7", "task=digits", "rate=x0.5") == 1
    for wrong in ("arm=plan", "color=red", "plain"):
        with pytest.raises(ConfigError, match="--only"):
            left(wrong)
    assert not (tmp_path / "out").exists()
    assert any("plain__x0.5__digits__s7" in line for line in said)


def test_the_hash_of_a_cell_is_of_all_that_decides_its_record(tmp_path: Path) -> None:
    text = tmp_path / "texts.txt"
    text.write_text("one\ntwo\n")
    held = {"method": {"name": "app", "projector": {"mode": "outputs", "num_kept": 2}, "texts": str(text)}}
    arm: dict[str, Any] = {"set": held}
    first = only_arm(tmp_path, **arm)[0].identity_hash()
    assert only_arm(tmp_path, **arm)[0].identity_hash() == first
    others = {
        "wise_ft": only_arm(tmp_path, **arm, wise_ft=[0.5])[0],
        "rate": only_arm(tmp_path, **arm, learning_rates=[2])[0],
        "evaluation": cells(tmp_path, arms={"arm": arm}, evaluation={"texts": 3})[0],
        "seed": cells(tmp_path, arms={"arm": arm}, seeds=[1])[0],
    }
    assert len({first, *(cell.identity_hash() for cell in others.values())}) == 5
    free = only_arm(tmp_path, set={**held, "training": {"logging_steps": 3}})[0]
    assert free.identity_hash() == first, "how often the loss is logged changes no result"
    text.write_text("one\nother\n")
    assert only_arm(tmp_path, **arm)[0].identity_hash() != first, "the content of a file that is named"


def test_the_code_hash_is_of_what_can_change_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("experiment/code.py", "training/adapt.py", "cli/main.py", "experiment/reading/runs.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    monkeypatch.setattr(code, "__file__", str(tmp_path / "experiment" / "code.py"))
    before = code.code_hash()
    (tmp_path / "cli/main.py").write_text("2")
    (tmp_path / "experiment/reading/runs.py").write_text("2")
    assert code.code_hash() == before
    (tmp_path / "training/adapt.py").write_text("2")
    assert code.code_hash() != before


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": list(range(50_000))},
        {"arms": {"l2sp": MATRIX["arms"]["l2sp"] | {"strengths": {"method.strength": [i + 1.0 for i in range(1300)]}}}},
        {"arms": {"plain": {"learning_rates": [1 + i / 1e4 for i in range(5_000)]}}},
    ],
)
def test_the_number_of_cells_is_bounded(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rates of all arms must be at most 5,000, found \d+,\d+"):
        cells(tmp_path, **changes)


def test_compare_names_the_file_of_a_cell_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(MATRIX | {"defaults": {"nonsense": 1}}, sort_keys=False))
    with pytest.raises(ConfigError, match=r"matrix.yaml: small: cell plain__x1__digits__s0: unknown key 'nonsense'"):
        compare(tmp_path / "matrix.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_compare_writes_into_no_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(MATRIX))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").touch()
    with pytest.raises(OutputError, match="out: the output folder is not empty"):
        compare(tmp_path / "matrix.yaml", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]
