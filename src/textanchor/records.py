"""The rows and records that every measurement ends in; the format is settled: add keys, never change their meaning."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from textanchor import __version__
from textanchor.config import from_dict, to_dict
from textanchor.errors import DataError
from textanchor.files import lines_of, read_json, read_text, write_json

FORMAT_VERSION = 1
RECORDED_PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "numpy", "scipy", "pillow")


def command_line() -> list[str]:
    """This process's command as somebody else would give it: our own program is called textanchor."""
    program = Path(sys.argv[0])
    is_ours = program.name == "__main__.py" and program.parent == Path(__file__).parent / "cli"
    return ["textanchor" if is_ours else program.name, *sys.argv[1:]]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one item of one suite; item ids pair the scores of two models."""

    suite: str
    version: str
    item_id: str
    metric: str
    value: float
    answer: str | None = None
    """What the model said, unparsed."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything needed to know where a set of scores came from and to get them again."""

    name: str
    method: str
    seed: int
    config: dict[str, Any] = field(default_factory=dict)
    command: list[str] = field(default_factory=command_line)
    """Words of the command; the first is the program's name, without the folder that it lies in on this machine."""
    commit: str | None = None
    """Commit of textanchor's own repository, "-dirty" appended where files differ; None where it was installed."""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of models and data, by name."""
    cost: dict[str, float] = field(default_factory=dict)
    """seconds, peak_memory_mb, tokens."""
    scores: list[Score] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path | str) -> None:
        """Write the record as JSON, whole or not at all."""
        write_json(path, {"format_version": FORMAT_VERSION, **to_dict(self)})

    @classmethod
    def load(cls, path: Path | str) -> "RunRecord":
        """The record that `save` wrote; DataError or ConfigError naming file and key where it is not one."""
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
            raise DataError(f"{path}: not a run record of format version {FORMAT_VERSION}; did textanchor write it?")
        return from_dict(cls, {k: v for k, v in content.items() if k != "format_version"}, source=str(path))

    def __str__(self) -> str:
        """Name, method and seed, then the mean of each metric of each suite."""
        values: dict[tuple[str, str], list[float]] = defaultdict(list)
        for score in self.scores:
            values[score.suite, score.metric].append(score.value)
        lines = [f"{self.name}: method {self.method}, seed {self.seed}"]
        lines += [
            f"  {suite:<20} {metric:<16} {fmean(v):10.4f}  ({len(v)} items)" for (suite, metric), v in values.items()
        ]
        return "\n".join(lines)


def environment() -> dict[str, Any]:
    """Keys commit, versions and hardware of this process, as RunRecord takes them."""
    return {"commit": source_commit(), "versions": _versions(), "hardware": _hardware()}


def memory_cost() -> dict[str, float]:
    """Key peak_memory_mb for `RunRecord.cost`: the most that this process has held, in MiB.

    On the GPU where torch uses one, else resident; empty where the platform does not say.
    """
    torch = sys.modules.get("torch")  # asked only if it is loaded: this module is imported by light code
    if torch is not None and torch.cuda.is_available():
        return {"peak_memory_mb": torch.cuda.max_memory_allocated() / 2**20}
    if sys.platform == "win32":
        return {}
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_memory_mb": peak / 2**20 if sys.platform == "darwin" else peak / 2**10}  # bytes there, KiB here


def source_commit() -> str | None:
    """Commit of the checkout that textanchor is imported from, or None where it is an installed copy."""
    here = Path(__file__).resolve()
    # an environment may lie inside somebody else's repository, so the file itself must be tracked
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):  # no git here: the commit is recorded as unknown
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "textanchor": __version__}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _hardware() -> dict[str, Any]:
    hardware: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": _processor_name(),
        "num_cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    }
    if sys.platform == "linux":
        hardware["memory_mb"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        hardware["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return hardware


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in lines_of(read_text(cpuinfo)):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
