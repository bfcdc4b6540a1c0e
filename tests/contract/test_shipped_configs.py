"""Every configuration that we ship is read by the class it is for."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from textanchor.config import load_config, read_yaml, to_dict
from textanchor.training.config import AdaptConfig

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("examples", "experiments", "src")
SHIPPED = sorted(path.relative_to(REPOSITORY) for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.yaml"))
SCRIPTS = {Path("experiments/align_embedded/config.yaml"): ("experiments/align_embedded/align.py", "AlignConfig")}
"""Configurations of scripts, with the class that the script reads them by; all others are of `textanchor adapt`."""


def class_for(config: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if config not in SCRIPTS:
        return AdaptConfig
    script, name = SCRIPTS[config]
    monkeypatch.syspath_prepend(str((REPOSITORY / script).parent))  # scripts import their neighbours
    spec = importlib.util.spec_from_file_location("shipped_script", REPOSITORY / script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "shipped_script", module)
    spec.loader.exec_module(module)
    return getattr(module, name)


@pytest.mark.parametrize("config", SHIPPED, ids=str)
def test_shipped_config_is_read(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_config(class_for(config, monkeypatch), REPOSITORY / config)
    assert dataclasses.is_dataclass(loaded)
    assert read_yaml(REPOSITORY / config).keys() <= to_dict(loaded).keys()


def test_every_script_config_is_there() -> None:
    assert SCRIPTS.keys() <= set(SHIPPED)
