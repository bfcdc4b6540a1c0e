"""From a matrix to its cells: the runs, each with its whole configuration, checked before anything is run."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from textanchor.bounds import require_range
from textanchor.config import from_dict, load_config, to_dict
from textanchor.data.tasks import TASKS
from textanchor.errors import ConfigError
from textanchor.evaluation.registry import EIGHT_TASKS
from textanchor.experiment.config import ArmConfig, EvaluationConfig, MatrixConfig, TaskConfig
from textanchor.files import sha256_of_file, sha256_of_json
from textanchor.training.checkpoints import run_identity
from textanchor.training.config import AdaptConfig
from textanchor.training.method import load_method

OUTPUT = Path("output")
"""Stands in a cell's configuration, which writes no model."""
FIXED = {"output": "a comparison writes no models", "training.seed": "the matrix has seeds"}
MOST_SHOWN = 24
"""Characters of a value in a file name."""
MOST_CELLS = 5_000
"""Each is a run; more of them is a slip, and would be expanded for minutes."""
LONGEST_NAME = 230
"""Characters of a cell's name: file systems take 255, and a file has some more while it is being written."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the matrix."""

    arm: str
    strength: str
    """Such as "kept_fraction=0.2"; empty where the arm has no strengths."""
    rate: str
    """Such as "x0.5"."""
    task: str
    seed: int
    config: AdaptConfig
    suite: str
    retained: tuple[str, ...] | None
    """None: those of `candidates` that the base model can do."""
    candidates: tuple[str, ...]
    wise_ft: tuple[float, ...]
    evaluation: EvaluationConfig

    @property
    def name(self) -> str:
        """Says all five; the name of its files."""
        return "__".join(filter(None, (self.arm, self.strength, self.rate, self.task, f"s{self.seed}")))

    @property
    def num_steps(self) -> int:
        """Optimizer steps, which a comparison always fixes."""
        assert self.config.training.max_steps is not None
        return self.config.training.max_steps

    def identity(self) -> dict[str, Any]:
        """Everything that decides the cell's record, apart from code, weights and versions."""
        return {
            "config": run_identity(self.config),
            "files": _file_hashes([self.config.data, load_method(self.config.method)]),
            "suite": self.suite,
            "retained": self.retained,
            "candidates": self.candidates,
            "wise_ft": self.wise_ft,
            "evaluation": to_dict(self.evaluation),
        }

    def identity_hash(self) -> str:
        """SHA-256 of `identity`."""
        return sha256_of_json(self.identity())


def load_matrix(path: Path | str) -> MatrixConfig:
    """The matrix in a YAML file; ConfigError naming file and key where it is none."""
    return load_config(MatrixConfig, path)


def load_cells(path: Path | str) -> tuple[MatrixConfig, list[Cell]]:
    """The matrix in a YAML file and its cells; ConfigError naming file, and key or cell, where they are none."""
    matrix = load_matrix(path)
    try:
        return matrix, expand(matrix)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def expand(matrix: MatrixConfig) -> list[Cell]:
    """All cells, seed by seed and task by task, so that a comparison that is cut short is a balanced one.

    ConfigError that names the cell where one is no valid adaptation run, and where there are too many of them.
    """
    num_ways = sum(len(list(_strengths(arm))) * len(arm.learning_rates) for arm in matrix.arms.values())
    num_cells = len(matrix.seeds) * len(matrix.tasks) * num_ways
    require_range("seeds x tasks x strengths and rates of all arms", num_cells, most=MOST_CELLS)
    cells = [
        _cell(matrix, task, arm, strength, rate, seed)
        for seed in matrix.seeds
        for task in matrix.tasks
        for arm, options in matrix.arms.items()
        for strength in enumerate(_strengths(options), start=1)
        for rate in options.learning_rates
    ]
    names = [cell.name for cell in cells]
    doubled = next((name for name, times in Counter(names).items() if times > 1), None)
    if doubled is not None:
        raise ConfigError(f"{matrix.name}: two cells are called {doubled}; give each strength and rate once")
    longest = max(names, key=len)
    if len(longest) > LONGEST_NAME:
        raise ConfigError(
            f"{matrix.name}: cell {longest} has a name of {len(longest)} characters, too long for its files; shorten "
            f"the names of the arm and the task to {LONGEST_NAME} in all"
        )
    return cells


def _cell(
    matrix: MatrixConfig,
    task: str,
    arm: str,
    numbered: tuple[int, dict[str, Any]],
    rate: float | dict[str, float],
    seed: int,
) -> Cell:
    chosen, options, (number, strength) = matrix.tasks[task], matrix.arms[arm], numbered
    labels = {"strength": _strength_label(strength, number), "rate": _rate_label(rate)}
    where = "__".join(filter(None, (arm, *labels.values(), task, f"s{seed}")))
    source = f"{matrix.name}: cell {where}"
    suite = _known_task(chosen.suite or task, f"{source}: suite")
    try:
        config = _config(matrix.defaults, task, chosen, options, strength, seed, source)
        config = _with_rate(config, rate)
        _check(config, options)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(source) else f"{source}: {text}") from error
    retained = chosen.retained
    for name in retained or ():
        _known_task(name, f"{source}: retained")
    if suite in (retained or ()):
        raise ConfigError(f"{source}: retained: {suite} is the new task itself; remove it")
    return Cell(
        arm=arm,
        **labels,
        task=task,
        seed=seed,
        config=config,
        suite=suite,
        retained=retained,
        candidates=tuple(name for name in EIGHT_TASKS if name != suite) if retained is None else retained,
        wise_ft=options.wise_ft,
        evaluation=matrix.evaluation,
    )


def _config(
    defaults: Mapping[str, Any],
    task: str,
    chosen: TaskConfig,
    arm: ArmConfig,
    strength: Mapping[str, Any],
    seed: int,
    source: str,
) -> AdaptConfig:
    values: dict[str, Any] = {}
    for changes in (defaults, chosen.set, arm.set, strength):
        changes = _nested(changes)
        for key, why in FIXED.items():
            if _has(changes, key):
                raise ConfigError(f"the key {key!r} cannot be set, {why}; remove it")
        values = _merged(values, changes)
    data = values.setdefault("data", {})
    if isinstance(data, dict) and data.get("task") is None and data.get("path") is None:
        data["task"] = task
    training = values.setdefault("training", {})
    if isinstance(training, dict):
        training["seed"] = seed
    return from_dict(AdaptConfig, {**values, "output": str(OUTPUT)}, source=source)


def _nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The same with keys that have dots as mappings."""
    found: dict[str, Any] = {}
    for key, value in changes.items():
        first, dot, rest = key.partition(".")
        if dot:
            value = _nested({rest: value})
        elif isinstance(value, Mapping):
            value = _nested(value)
        if first in found and isinstance(found[first], dict) and isinstance(value, dict):
            value = _merged(found[first], value)
        found[first] = value
    return found


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict) and not value.keys() & {"name", "train"}:
            result[key] = _merged(result[key], value)
        else:
            result[key] = value
    return result


def _has(values: Mapping[str, Any], key: str) -> bool:
    first, dot, rest = key.partition(".")
    if not dot:
        return first in values
    return isinstance(values.get(first), Mapping) and _has(values[first], rest)


def _strengths(arm: ArmConfig) -> Iterator[dict[str, Any]]:
    if not arm.strengths:
        yield {}
        return
    for values in zip(*arm.strengths.values(), strict=True):
        yield dict(zip(arm.strengths, values, strict=True))


def _with_rate(config: AdaptConfig, rate: float | dict[str, float]) -> AdaptConfig:
    parts = config.trained_parts
    trained = parts.trained()
    if isinstance(rate, dict):
        unknown = sorted(rate.keys() ^ {str(name) for name in trained})
        if unknown:
            raise ConfigError(f"learning_rates: give a rate for each of {', '.join(trained)}; {unknown[0]} is amiss")
        rates: dict[str, float] = dict(rate)
    else:
        rates = {name: (part.learning_rate or 0.0) * rate for name, part in trained.items()}
    changed: dict[str, Any] = {name: replace(part, learning_rate=rates[name]) for name, part in trained.items()}
    return replace(config, parts=replace(parts, **changed))


def _check(config: AdaptConfig, arm: ArmConfig) -> None:
    """What a comparison asks of a run beyond what every run must be."""
    training = config.training
    if training.max_steps is None:
        raise ConfigError("training.epochs: a comparison scores fixed steps; give training.max_steps")
    if training.save_steps is not None:
        raise ConfigError("training.save_steps: a comparison keeps no checkpoints; remove it")
    if config.export != "plain":
        raise ConfigError("export has no effect, a comparison writes no models; remove it")
    method = load_method(config.method)
    if arm.wise_ft and not (method.trains and method.keeps_base):
        raise ConfigError(f"wise_ft: method {config.method['name']} does not count from the base weights; remove it")


def _strength_label(strength: Mapping[str, Any], number: int) -> str:
    """The last names of the keys and their values; `number` where values are no plain ones."""
    if not strength:
        return ""
    names = "+".join(dict.fromkeys(key.rpartition(".")[2] for key in strength))
    values = [_written(value) for value in strength.values()]
    is_plain = all(isinstance(value, str | int | float) for value in strength.values())
    if is_plain and all(len(value) <= MOST_SHOWN for value in values):
        return f"{names}={'+'.join(dict.fromkeys(values))}"
    return f"{names}=v{number}"


def _written(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return "".join(c if c.isalnum() or c in ".+-" else "-" for c in text)


def _rate_label(rate: float | dict[str, float]) -> str:
    if isinstance(rate, dict):
        return "_".join(f"{name}={value:g}" for name, value in rate.items())
    return f"x{rate:g}"


def _known_task(name: str, source: str) -> str:
    if name not in TASKS:
        near = get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(TASKS)}"
        raise ConfigError(f"{source}: unknown task {name!r}; {hint}")
    return name


def _file_hashes(values: Any) -> dict[str, str]:
    """SHA-256 of every file, or of every file in a folder, that a configuration names."""
    found: dict[str, str] = {}
    for path in sorted(set(_paths(values))):
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        found |= {str(file): sha256_of_file(file) for file in files if file.is_file()}
    return found


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _paths(entry)
    elif isinstance(value, Mapping):
        yield from _paths(list(value.values()))
    elif is_dataclass(value):
        yield from _paths([getattr(value, item.name) for item in fields(value)])
