"""Step zero from end to end on a tiny model: every stage writes its record, and an interrupted run is taken up."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from page.rows import unpack

from helpers.tiny_llava import tiny_llava_with_processor
from textanchor.files import read_json
from textanchor.records import RunRecord

TINY = [
    "retained=[shape, existence]",
    "new_tasks=[team]",
    "autocast=false",
    "reference={sources: [shape, existence], num_images: 10, num_texts: 10, num_folds: 5, hidden: [1], "
    "num_drift_images: 4}",
    "overlap_counts=[4]",
    "spectrum={bands: [text_top, random, identity], num_directions: 4, energies: [0.1], num_draws: 1, num_items: 2}",
    "ablation={tuning: {steps: 2, batch_size: 2, num_images: 4, projector_learning_rate: 1e-2}, seeds: [0], "
    "shares: {identity: [0.5], text_top: [0.5], inputs_top: [0.5], 'random:0': [0.5], 'inputs_random:0': [0.5]}, "
    "front: [0.5], oracle_bands: [hidden:1_top], oracle_counts: [4], oracle_fractions: {inputs_top: [0.3]}, "
    "oracle_seeds: [0], num_items: 2, num_new_items: 3}",
    "lora={tuning: {steps: 2, batch_size: 2, num_images: 4, projector_learning_rate: 1e-2, lora_learning_rate: 1e-2, "
    "lora_rank: 2}, seeds: [0], shares: {inputs_top: [0.5], 'inputs_random:0': [0.5], identity: [0.5]}, front: [0.5], "
    "num_items: 2, num_new_items: 3, num_anchor_texts: 8, num_texts: 2, max_tokens: 16}",
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model, processor = tiny_llava_with_processor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def run(repository: Path, model: Path, folder: Path, *stages: str) -> str:
    """What the script says."""
    script = repository / "experiments" / "step_zero" / "step_zero.py"
    command = [sys.executable, str(script), "--model", str(model), "--threads", "1"]
    command += ["--work", str(folder / "work"), "--out", str(folder / "out"), "--set", "name=tiny"]
    command += [part for override in TINY for part in ("--set", override)]
    command += ["--stages", *stages] if stages else []
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_all_stages_and_taking_them_up(repository: Path, model_folder: Path, tmp_path: Path) -> None:
    run(repository, model_folder, tmp_path)
    out = tmp_path / "out" / "tiny"
    names = {"overlap", "spectrum", "ablation-team-0", "lora-team-0"}
    assert {path.stem for path in out.iterdir()} == names
    before = {name: RunRecord.load(out / f"{name}.json") for name in names}
    for record in before.values():
        assert record.config["model"] == "tiny" and str(tmp_path) not in str(record.config)

    conditions = before["ablation-team-0"].extra["conditions"]
    check_removed(conditions)
    assert check_removed(before["lora-team-0"].extra["conditions"]) == 3
    tuned = next(c for c in conditions if c.get("alpha") == 1.0)
    base = next(c for c in conditions if c.get("alpha") == 0.0)
    assert unpack(tuned["rows"])["team"]["gold_nats"] != unpack(base["rows"])["team"]["gold_nats"]
    assert before["ablation-team-0"].extra["drift_energy"] > 0
    assert len(unpack(base["rows"])["team"]["gold_nats"]) == 3
    assert "text" in before["lora-team-0"].extra["conditions"][0]["rows"]

    cells = sorted((tmp_path / "work" / "cells").iterdir())
    lost = next(cell for cell in cells if read_json(cell)["value"].get("fraction_taken"))
    kept = {cell: cell.stat().st_mtime_ns for cell in cells if cell != lost}
    lost.unlink()
    (out / "ablation-team-0.json").unlink()
    run(repository, model_folder, tmp_path)
    assert {cell: cell.stat().st_mtime_ns for cell in kept} == kept and lost.is_file()
    for name in names:
        again = RunRecord.load(out / f"{name}.json")
        assert again.extra == before[name].extra and again.hashes == before[name].hashes


def check_removed(conditions: list[dict[str, Any]]) -> int:
    """Every removal took out what it was asked for."""
    removals = [condition for condition in conditions if condition.get("kind") == "removal"]
    for condition in removals:
        assert condition["removed"] == pytest.approx(condition["share"], abs=1e-5), condition["band"]
    return len(removals)
