from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from textanchor.config import from_dict, load_config, save_config, to_dict
from textanchor.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError(f"lr must be greater than 0, found {self.lr}")


@dataclass(frozen=True, kw_only=True)
class Config:
    name: str
    steps: int = 10
    mode: Literal["inputs", "outputs", 3] = "inputs"
    fast: bool = False
    output: Path | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)
    layers: list[int] = field(default_factory=list)
    tags: tuple[str, ...] = ()
    parts: dict[str, Optimizer] = field(default_factory=dict)
    keep: int | float | None = None
    extra: Any = None
    made: int = field(default=0, init=False)


def test_everything_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "name: a\nsteps: 3\nmode: outputs\nfast: true\noutput: out\noptimizer: {lr: 1e-4, betas: [0, 1]}\n"
        "layers: [1, 2]\ntags: [x, y, z]\nparts: {projector: {lr: 1}}\nkeep: 5\nextra: {any: [1, two]}\n"
    )
    assert load_config(Config, tmp_path / "c.yaml") == Config(
        name="a",
        steps=3,
        mode="outputs",
        fast=True,
        output=Path("out"),
        optimizer=Optimizer(lr=1e-4, betas=(0.0, 1.0)),
        layers=[1, 2],
        tags=("x", "y", "z"),
        parts={"projector": Optimizer(lr=1.0)},
        keep=5,
        extra={"any": [1, "two"]},
    )


def test_whole_numbers_become_floats() -> None:
    config = from_dict(Config, {"name": "a", "optimizer": {"lr": 1}})
    assert type(config.optimizer.lr) is float


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "a", "stepz": 1}, r"^f: unknown key 'stepz'; did you mean 'steps'\?$"),
        ({"name": "a", "optimizer": {"lrr": 1}}, r"^f: unknown key 'optimizer.lrr'; did you mean 'lr'\?$"),
        ({"name": "a", "qqqq": 1}, r"unknown key 'qqqq'; known are name, steps, mode"),
        ({"name": "a", "made": 1}, "unknown key 'made'"),
        ({}, r"the key 'name' is missing"),
        ({"name": 1}, r"^f: name: expected text, found 1 \(int\)$"),
        ({"name": None}, r"name: expected text, found nothing"),
        ({"name": "a", "steps": True}, r"steps: expected a whole number, found True \(bool\)"),
        ({"name": "a", "steps": 1.0}, r"steps: expected a whole number, found 1\.0 \(float\)"),
        ({"name": "a", "fast": 1}, r"fast: expected true or false, found 1 \(int\)"),
        (
            {"name": "a", "mode": "output"},
            r"one of 'inputs', 'outputs', 3, found 'output' \(str\); did you mean 'outputs'",
        ),
        ({"name": "a", "mode": 3.0}, r"mode: expected one of"),
        ({"name": "a", "output": 3}, r"output: expected a path, found 3"),
        ({"name": "a", "optimizer": {"lr": "x"}}, r"optimizer\.lr: expected a number, found 'x'"),
        ({"name": "a", "optimizer": {"lr": True}}, r"optimizer\.lr: expected a number, found True"),
        ({"name": "a", "optimizer": {"betas": [1]}}, r"optimizer\.betas: expected 2 values, found \[1\]"),
        ({"name": "a", "optimizer": [1]}, r"optimizer: expected the keys of Optimizer, found \[1\]"),
        ({"name": "a", "optimizer": {"lr": -1.0}}, r"^f: optimizer: lr must be greater than 0, found -1\.0$"),
        ({"name": "a", "layers": "1"}, r"layers: expected a list, found '1'"),
        ({"name": "a", "layers": [1, "b"]}, r"layers\[1\]: expected a whole number, found 'b'"),
        ({"name": "a", "parts": {"llm": {"lr": "x"}}}, r"parts\.llm\.lr: expected a number"),
        ({"name": "a", "parts": [1]}, r"parts: expected a mapping"),
        ({"name": "a", "keep": "x"}, r"keep: expected a whole number or a number or nothing, found 'x'"),
        ([], r"^f: the whole: expected the keys of Config, found \[\] \(list\)$"),
    ],
)
def test_errors_name_source_key_expected_and_found(mapping: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Config, mapping, source="f")


def test_home_folder_is_written_as_shells_do() -> None:
    assert from_dict(Config, {"name": "a", "output": "~/x"}).output == Path.home() / "x"


def test_union_takes_the_first_type_that_fits() -> None:
    assert type(from_dict(Config, {"name": "a", "keep": 5}).keep) is int
    assert type(from_dict(Config, {"name": "a", "keep": 0.5}).keep) is float


def test_unsupported_field_type_is_the_programmers_error() -> None:
    @dataclass
    class Odd:
        values: set[int]

    with pytest.raises(TypeError, match="values"):
        from_dict(Odd, {"values": [1]})


def test_overrides(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: a\noptimizer: {lr: 1}\n")
    overrides = ["optimizer.lr=1e-2", "name=b=c", "parts.llm.lr=2", "layers=[1, 2]", "output=null"]
    config = load_config(Config, tmp_path / "c.yaml", overrides)
    assert (config.optimizer.lr, config.name, config.layers, config.output) == (1e-2, "b=c", [1, 2], None)
    assert config.parts["llm"].lr == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name", "expected key=value"),
        ("=3", "expected key=value"),
        ("a..b=3", "expected key=value"),
        ("name.first=3", "name has no keys of its own"),
        ("name=[", "the value is not valid YAML"),
        ("stepz=3", "did you mean 'steps'"),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text("name: a\n")
    with pytest.raises(ConfigError, match=message):
        load_config(Config, tmp_path / "c.yaml", [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nsteps: [1\n", r"c\.yaml, line 3: not valid YAML"),
        ("name: a\nname: b\n", r"c\.yaml, line 2: .*'name' is given twice"),
        ("- a\n", "expected `key: value` lines, found a list"),
        ("", "the key 'name' is missing"),
        ("name: !!python/object:os.system x\n", "not valid YAML"),
    ],
)
def test_wrong_yaml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(Config, tmp_path / "c.yaml")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(Config, tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "+1e-3", "0.001"])
def test_numbers_as_people_write_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(f"lr: {text}\n")
    assert load_config(Optimizer, tmp_path / "c.yaml").lr == 1e-3


def test_save_and_load(tmp_path: Path) -> None:
    config = Config(
        name="ä",
        output=Path("x"),
        optimizer=Optimizer(lr=1e-30),
        parts={"a": Optimizer()},
        tags=("1e5", "no"),
        keep=2.0,
    )
    save_config(config, tmp_path / "c.yaml")
    assert load_config(Config, tmp_path / "c.yaml") == config
    assert "made" not in to_dict(config)
