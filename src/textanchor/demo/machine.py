"""What this machine has and lacks for the demo: a line each, and what to do where something is missing."""

import ctypes
import gc
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from textanchor.errors import TextanchorError
from textanchor.fetch import SOURCES, WheelSource, damage_of
from textanchor.files import cache_dir
from textanchor.records import environment
from textanchor.training.trainer import training_device
from textanchor.vlm.precision import LEAST_GAIN, product_speeds

MEMORY_GB, DISK_GB = 4.2, 3.0
"""What the demo needs at its most, and for the model in the cache and two tuned ones."""
SHAPES = ((1536, 576), (49153, 576), (576, 1536))
"""Of the embedded model's linears (`linear_shapes`), which is not loaded here."""
CGROUP = Path("/sys/fs/cgroup")
REGISTRY_SECONDS = 20
REGISTRY_WAY_OUT = "Set PIP_INDEX_URL to an index that you can reach, or PIP_FIND_LINKS to a folder with the wheels"
LIBRARIES = ("torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class Finding:
    """One line of `textanchor doctor`."""

    what: str
    found: str
    way_out: str = ""
    """What to do, where this is a problem."""

    def __str__(self) -> str:
        mark = "problem" if self.way_out else "ok"
        advice = f". {self.way_out}" if self.way_out else ""
        return f"{mark:<8}{self.what:<10}{self.found}{advice}"


def examine() -> Iterator[Finding]:
    """Everything that decides whether the demo runs here and how fast; the registry is asked only if it is needed."""
    yield Finding("python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("libraries", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES))
    yield _device()
    yield _precision()
    yield _memory()
    yield _disk()
    missing = [_state_of(source) for source in SOURCES]
    for source, state in zip(SOURCES, missing, strict=True):
        yield Finding("files", f"{source.requirement}: {state or 'there'}")
    yield _registry() if any(missing) else Finding("registry", "not needed any more")


def require_machine(say: Callable[[str], None]) -> None:
    """Tell memory and disk; TextanchorError where either is too small for the demo."""
    for finding in (_memory(), _disk()):
        if finding.way_out:
            raise TextanchorError(f"{finding.found}. {finding.way_out}")
        say(f"{finding.what}: {finding.found}")


def free_memory() -> None:
    """Give back to the system what no object needs any more.

    A trainer and its callbacks name each other, so only the collector frees them and their model. glibc keeps what is
    freed between blocks in use, after an anchor was fitted nearly a gigabyte.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _device() -> Finding:
    hardware, device = environment()["hardware"], training_device()
    if device != "cpu":
        return Finding("device", ", ".join(hardware.get("gpus", [device])))
    units = torch.backends.cpu.get_cpu_capability()
    return Finding("device", f"{hardware['processor']}, {hardware['num_cores']} cores, {units}")


def _precision() -> Finding:
    speeds = product_speeds(training_device(), SHAPES)
    chosen = "bfloat16" if speeds["bfloat16"] > LEAST_GAIN * speeds["float32"] else "float32"
    told = ", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items())
    return Finding("precision", f"auto takes {chosen} (products of one core, in GFLOP/s: {told})")


def _memory() -> Finding:
    free = _free_memory_gb()
    found = f"{free:.1f} GB free, the demo takes up to {MEMORY_GB:g}"
    return Finding("memory", found, "" if free >= MEMORY_GB else "Close other programs, or take a larger machine")


def _free_memory_gb() -> float:
    """What is available, also to a container."""
    free = psutil.virtual_memory().available
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text) - int(used.read_text()))
    return free / 1e9


def _disk() -> Finding:
    folder = cache_dir()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free / 1e9
    found = f"{free:.1f} GB free for the cache {folder}, the demo takes up to {DISK_GB:g}"
    way_out = "Make room, or set TEXTANCHOR_CACHE to a folder on another disk"
    return Finding("disk", found, "" if free >= DISK_GB else way_out)


def _state_of(source: WheelSource) -> str | None:
    """Why the files have to be downloaded, or None where they are there."""
    if not source.folder.exists():
        return f"not there yet, {source.size_mb:g} MB to download"
    damage = damage_of(source)
    return None if damage is None else f"damaged ({damage}), {source.size_mb:g} MB to download again"


def _registry() -> Finding:
    command = [sys.executable, "-m", "pip", "index", "versions", SOURCES[-1].package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=REGISTRY_SECONDS)
    except subprocess.TimeoutExpired:
        return Finding("registry", f"no answer in {REGISTRY_SECONDS} s", REGISTRY_WAY_OUT)
    if done.returncode == 0:
        return Finding("registry", "answers")
    return Finding("registry", "pip finds no package there", REGISTRY_WAY_OUT)
