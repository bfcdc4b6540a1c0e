"""Saved folders: what comes back is what was saved, or one paragraph."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from textanchor.errors import HoldError
from textanchor.holds.store import load_folder, save_folder

TENSORS = {"a/mean": torch.arange(3.0, dtype=torch.float64), "b/mean": torch.ones(2, 2)}
VALUES = {"moments": {"a": {"count": 3}, "b": {"count": 1}}, "aliases": {}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_folder(tmp_path / "anchor", "anchor", TENSORS, VALUES, overwrite=False)
    return tmp_path / "anchor"


def test_what_was_saved_comes_back(saved: Path) -> None:
    tensors, values = load_folder(saved, "anchor")
    assert values == VALUES
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def with_json(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        stored = json.loads((folder / "anchor.json").read_text())
        change(stored)
        (folder / "anchor.json").write_text(json.dumps(stored))

    return edit


def with_tensors(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "anchor.safetensors")
        change(tensors)
        save_file(tensors, folder / "anchor.safetensors")

    return edit


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a key less": with_json(lambda stored: stored["content"].pop("aliases")),
    "another count": with_json(lambda stored: stored["content"]["moments"]["a"].update(count=4)),
    "a name more": with_json(lambda stored: stored["content"]["moments"].update(c={"count": 1})),
    "no content": with_json(lambda stored: stored.pop("content")),
    "no seal": with_json(lambda stored: stored.pop("seal")),
    "a list": lambda folder: (folder / "anchor.json").write_text("[]"),
    "no JSON": lambda folder: (folder / "anchor.json").write_text("{"),
    "no UTF-8": lambda folder: (folder / "anchor.json").write_bytes(b"\xff"),
    "a tensor less": with_tensors(lambda tensors: tensors.pop("b/mean")),
    "a tensor more": with_tensors(lambda tensors: tensors.update(c=torch.ones(1))),
    "another width": with_tensors(lambda tensors: tensors.update({"a/mean": torch.ones(4, dtype=torch.float64)})),
    "another type": with_tensors(lambda tensors: tensors.update({"a/mean": torch.ones(3)})),
    "cut off": lambda folder: (folder / "anchor.safetensors").write_bytes(b"x" * 20),
    "no tensors": lambda folder: (folder / "anchor.safetensors").unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_was_changed_is_refused_with_the_way_out(kind: str, saved: Path) -> None:
    DAMAGE[kind](saved)
    with pytest.raises(HoldError, match=rf"^{saved}/anchor\.(json|safetensors)[:,].*"):
        load_folder(saved, "anchor")
