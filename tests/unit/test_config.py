import math
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


BOMB = "a0: &a0 [" + "x, " * 9 + "]\n" + "".join(
    f"a{i}: &a{i} [" + f"*a{i - 1}, " * 9 + "]\n" for i in range(1, 12)
)  # fmt: skip
MERGED_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [" + f"*a{i - 1}, " * 40 + "]\n" for i in range(1, 12)
)  # fmt: skip


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
        ({"name": "a", "output": "~no-such-user/x"}, r"expected a path; nobody of that name has a home folder"),
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
        ({"name": "a", "steps": 2**63}, r"steps: expected a number of 64 bits, found 9223372036854775808"),
        (
            {"name": "a", "extra": [10**400]},
            r"extra\[0\]: expected a number of 64 bits, found a whole number of more than",
        ),
        ({"name": "a", "optimizer": {"lr": 10**400}}, r"optimizer\.lr: expected a number of 64 bits"),
        ({"name": "a", "optimizer": {"lr": math.nan}}, r"optimizer\.lr: expected a finite number, found nan"),
        ({"name": "a", "extra": {"b": -math.inf}}, r"extra\.b: expected a finite number, found -inf"),
        ({"name": "\ud800"}, r"name: expected text without halves of characters"),
        ({"name": "a", "output": "a\0b"}, r"output: expected a path, which holds no null character"),
        ({"name": "a", "output": "~nobody-here/b"}, r"output: expected a path; nobody of that name has a home"),
        ({"name": "a" * 1000, "steps": "b" * 1000}, r"^f: steps: expected a whole number, found 'bbb[^\n]{50,100}$"),
        ([], r"^f: the whole: expected the keys of Config, found \[\] \(list\)$"),
    ],
)
def test_errors_name_source_key_expected_and_found(mapping: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Config, mapping, source="f")


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"a": v}, lambda v: (v,)], ids=["list", "dict", "tuple"])
def test_values_in_values_are_bounded(wrap: Any) -> None:
    value: Any = 1
    for _ in range(2000):
        value = wrap(value)
    with pytest.raises(ConfigError, match="nested deeper than 50 levels, at 'extra"):
        from_dict(Config, {"name": "a", "extra": value}, source="f")


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
        ("steps=" + "9" * 6000, "override 'steps=999.*: the value is not valid YAML"),
        ("steps=0x" + "f" * 6000, "steps: expected a number of 64 bits"),
        ("optimizer.lr=.inf", r"optimizer\.lr: expected a finite number"),
        ("extra={1: 2}", r"the key '1' is not read as text; put it in quotes"),
        ("extra=" + "[" * 3000, "more than 50 levels"),
        ("extra." + "a." * 3000 + "b=1", "nested deeper than 50 levels"),
        ("extra=!!set {a, b}", "could not determine a constructor"),
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
        ("name: a\n? [b, c]\n: 1\n", r"c\.yaml, line 2: .*is not read as text"),
        ("name: a\nextra: {on: 1}\n", r"c\.yaml, line 2: .*the key 'on' is not read as text; put it in quotes"),
        ("name: a\nextra: {~: 1}\n", r"c\.yaml, line 2: .*is not read as text"),
        ("name: a\nextra: {2.5: 1}\n", r"c\.yaml, line 2: .*'2.5' is not read as text"),
        ("name: a\nextra: " + "[" * 3000 + "]" * 3000, r"c\.yaml, line 2: .*more than 50 levels"),
        ("name: a\nextra: " + "{a: " * 3000 + "}" * 3000, r"c\.yaml, line 2: .*more than 50 levels"),
        ("- " * 3000, r"c\.yaml, line 1: .*more than 50 levels"),
        ("name: a\nsteps: " + "9" * 6000, r"c\.yaml, line 2: .*'999.* cannot be read"),
        ("name: a\nsteps: !!int ''\n", r"c\.yaml, line 2: .*'' cannot be read"),
        ("name: a\nfast: !!bool maybe\n", r"c\.yaml, line 2: .*'maybe' cannot be read"),
        ("name: a\nextra: &x [*x]\n", r"c\.yaml, line 2: .*\*x is inside of what it names"),
        ("name: a\nsteps: 1e999\n", "steps: expected a whole number|steps: expected a finite number"),
        ('name: "\\uD800"\n', "name: expected text without halves"),
        ("name: " + "a" * 2**20, "more than 1,048,576 bytes"),
        (BOMB, r"c\.yaml, line 6: .*more than 50 levels, or 100,000 values"),
        (MERGED_BOMB, r"c\.yaml, line 7: .*more than 50 levels, or 100,000 values"),
    ],
)
def test_wrong_yaml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(Config, tmp_path / "c.yaml")


def test_anchors_merged_keys_and_dates_are_read(tmp_path: Path) -> None:
    """A date is text, as a name of a folder; a merged mapping may be merged again before it is read itself."""
    text = "name: 2024-01-01\nextra:\n  a: {inner: {b: &b {<<: &c {x: 1, y: 1}, x: 2}}}\n  d: {<<: *b, y: 3}\n  e: *c\n"
    (tmp_path / "c.yaml").write_text(text)
    config = load_config(Config, tmp_path / "c.yaml")
    assert config.name == "2024-01-01"
    assert config.extra == {"a": {"inner": {"b": {"x": 2, "y": 1}}}, "d": {"x": 2, "y": 3}, "e": {"x": 1, "y": 1}}


def test_an_override_changes_one_place_of_an_aliased_mapping(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: a\nparts: {x: &o {lr: 1}, y: *o}\n")
    config = load_config(Config, tmp_path / "c.yaml", ["parts.x.lr=2"])
    assert (config.parts["x"].lr, config.parts["y"].lr) == (2, 1)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: more than 1,048,576 bytes"):
        load_config(Config, "/dev/zero")


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
