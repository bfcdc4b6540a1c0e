"""A small comparison on a tiny LLaVA: records, resuming, failures, stale code, interpolation, restoring the base."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from helpers.tiny_llava import tiny_llava_with_processor
from textanchor.errors import DataError, TextanchorError
from textanchor.evaluation.registry import load_suite
from textanchor.experiment import bench as bench_module
from textanchor.experiment import command
from textanchor.experiment.bench import Bench
from textanchor.experiment.cells import Cell, expand, load_matrix
from textanchor.experiment.columns import unpack_numbers
from textanchor.experiment.command import Outcome, compare
from textanchor.experiment.results import Results
from textanchor.experiment.run import run_cell
from textanchor.holds import plan_holds
from textanchor.outputs import temporary_sibling
from textanchor.records import RunRecord
from textanchor.training.adapt import adapt
from textanchor.vlm import precision as precision_module

MATRIX: dict[str, Any] = {
    "name": "tiny",
    "defaults": {
        "model": "tiny",
        "data": {"num_images": 8},
        "parts": {
            "projector": {"train": "full", "learning_rate": 1e-2},
            "language_model": {"train": "lora", "learning_rate": 1e-2, "rank": 4},
        },
        "training": {"max_steps": 4, "batch_size": 2, "cache_features": True},
    },
    "tasks": {"digits": {"retained": ["color", "count"]}},
    "arms": {"plain": {"wise_ft": [0.5]}, "l2sp": {"set": {"method": {"name": "l2sp", "strength": 0.1}}}},
    "seeds": [0, 1],
    "evaluation": {
        "validation_items": 3,
        "test_items": 2,
        "texts": 2,
        "points": 2,
        "geometry_images": 4,
        "geometry_directions": 8,
    },
}
NAMES = ["l2sp__x1__digits__s0", "l2sp__x1__digits__s1", "plain__x1__digits__s0", "plain__x1__digits__s1"]


def write_matrix(folder: Path, **changes: Any) -> Path:
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump({**MATRIX, **changes}))
    return path


def load_tiny(name: str) -> tuple[Any, Any]:
    assert name == "tiny"
    return tiny_llava_with_processor()


def run(matrix: Path, out: Path, **options: Any) -> Outcome:
    return compare(matrix, out, load=load_tiny, say=lambda _: None, **options)


def cells_of(folder: Path, **changes: Any) -> list[Cell]:
    return expand(load_matrix(write_matrix(folder, **changes)))


def test_it_runs_every_cell_once_and_the_records_say_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, out = write_matrix(tmp_path), tmp_path / "out"
    assert run(matrix, out).num_done == 4
    assert [record.name for record in Results(out).records()] == NAMES
    record = RunRecord.load(out / "runs" / "plain__x1__digits__s0.json")
    assert [entry["step"] for entry in record.extra["curve"]] == [0, 1, 4]
    assert [entry["step"] for entry in record.extra["geometry"]] == [0, 1, 4]
    assert [entry["alpha"] for entry in record.extra["wise_ft"]] == [0.5]
    first, last = record.extra["curve"][0], record.extra["curve"][-1]
    assert set(last["tasks"]) == {"digits", "color", "count"}
    assert [len(unpack_numbers(last["tasks"][task]["gold_nats"])) for task in ("digits", "color")] == [10, 5]
    assert len(record.extra["items"]["digits"]["validation"]) == 6
    assert first["tasks"] != last["tasks"]
    assert first["text_nats"] != last["text_nats"]
    assert record.hashes.keys() >= {"cell", "code", "model", "data", "digits", "color", "count", "text"}
    assert record.extra["text_is_identical"] is None
    monkeypatch.setattr(command, "run_cell", pytest.fail)
    assert run(matrix, out).num_done == 4


@pytest.mark.parametrize(("precision", "language_model"), [("float32", "lora"), ("bfloat16", "frozen")])
def test_cells_with_one_base_share_it_unharmed(precision: str, language_model: str, tmp_path: Path) -> None:
    """A cell that runs after others gives what it gives alone, and the model is loaded once."""
    loads: list[str] = []

    def load(name: str) -> tuple[Any, Any]:
        loads.append(name)
        return load_tiny(name)

    defaults = MATRIX["defaults"] | {"training": MATRIX["defaults"]["training"] | {"precision": precision}}
    if language_model == "frozen":
        defaults["parts"] = MATRIX["defaults"]["parts"] | {"language_model": {"train": "frozen"}}
    cells, bench = cells_of(tmp_path, defaults=defaults), Bench(load)
    together = [run_cell(cell, bench) for cell in cells[:2]]
    alone = run_cell(cells[1], Bench(load_tiny))
    assert loads == ["tiny"]
    for key in ("curve", "audit", "geometry", "drift", "loss"):
        assert together[1].extra[key] == alone.extra[key], key


def test_a_record_says_what_an_even_guess_costs(tmp_path: Path) -> None:
    cell = cells_of(tmp_path)[0]
    record = run_cell(cell, Bench(load_tiny))
    suite = load_suite(cell.suite, num_items=4, blind=False)
    assert record.extra["guess_nats"][cell.suite]["test"] == pytest.approx(math.log(len(suite.items[0].choices)))
    first = record.extra["curve"][0]["tasks"][cell.suite]
    assert len(unpack_numbers(first["choice_nats"])) == len(unpack_numbers(first["gold_nats"]))


def test_anchors_are_fitted_once_and_shared_with_equal_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"mode": "inputs", "kept_fraction": 0.3}
    method = {
        "name": "app",
        "projector": held,
        "language_model": held,
        "num_texts": 8,
        "reference": {"task": "existence", "num_images": 16},
    }
    arms = {"app": {"set": {"method": method}, "strengths": {"method.projector.kept_fraction": [0.3, 0.5]}}}
    cells, bench = cells_of(tmp_path, arms=arms), Bench(load_tiny, scratch=tmp_path)
    run_cell(cells[0], bench)
    monkeypatch.setattr("textanchor.methods.app.fit_anchor", pytest.fail)
    shared = run_cell(cells[1], bench)
    monkeypatch.undo()
    alone = run_cell(cells[1], Bench(load_tiny))
    assert shared.extra["curve"] == alone.extra["curve"]
    for ours, own in zip(shared.extra["audit"], alone.extra["audit"], strict=True):
        assert ours["change_norm"] == pytest.approx(own["change_norm"], rel=1e-5)  # saved moments are rounded
    rules = {(row["part"], row["rule"]): row["largest_weight_leak"] for row in shared.extra["audit"]}
    assert all(leak < 1e-5 for leak in rules.values() if leak is not None)


def test_runs_that_hold_the_same_share_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"mode": "inputs", "kept_fraction": 0.3}
    method = {"name": "app", "language_model": held, "num_texts": 8}
    arms = {
        "app": {"set": {"method": method}, "learning_rates": [1, 0.5]},
        "more": {"set": {"method": method | {"language_model": held | {"kept_fraction": 0.5}}}},
    }
    cells, bench = cells_of(tmp_path, arms=arms), Bench(load_tiny, scratch=tmp_path)
    first, slower, more = (cell for cell in cells if cell.seed == cells[0].seed)
    alone = run_cell(slower, Bench(load_tiny))
    made = []

    def noted(*arguments: Any, **options: Any) -> Any:
        made.append(arguments)
        return plan_holds(*arguments, **options)

    monkeypatch.setattr("textanchor.methods.app.plan_holds", noted)
    run_cell(first, bench)
    shared = run_cell(slower, bench)
    assert len(made) == 1
    assert shared.extra["curve"] == alone.extra["curve"]
    run_cell(more, bench)
    assert len(made) == 2


def test_a_method_that_splits_the_base_weights_does_not_harm_the_next_run(tmp_path: Path) -> None:
    arms = {
        "osf": {"set": {"method": {"name": "osf"}, "parts": None}},
        "plain": MATRIX["arms"]["plain"],
    }
    cells, bench = cells_of(tmp_path, arms=arms), Bench(load_tiny)
    run_cell(cells[0], bench)
    assert run_cell(cells[1], bench).extra["curve"] == run_cell(cells[1], Bench(load_tiny)).extra["curve"]


def test_interpolation_afterwards_gives_the_weights_of_the_method_wise_ft(tmp_path: Path) -> None:
    """The scores of both are equal digit for digit, and those weights are another model than the trained one."""
    arms = {
        "plain": {"wise_ft": [0.3, 0.5]},
        "wise_ft": {"set": {"method": {"name": "wise_ft", "alpha": 0.5}}},
    }
    plain, method = (run_cell(cell, Bench(load_tiny)) for cell in cells_of(tmp_path, arms=arms)[:2])
    assert [entry["step"] for entry in method.extra["curve"]] == [0, 4]
    assert plain.extra["wise_ft"][1]["tasks"] == method.extra["curve"][-1]["tasks"]
    assert plain.extra["wise_ft"][1]["tasks"] != plain.extra["curve"][-1]["tasks"]


def test_a_frozen_language_model_leaves_text_alone_and_that_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = {"r1": {"set": {"parts.language_model": {"train": "frozen"}}}}
    cell = cells_of(tmp_path, arms=frozen)[0]
    record = run_cell(cell, Bench(load_tiny))
    assert record.extra["text_is_identical"] is True
    assert not any("text_nats" in entry for entry in record.extra["curve"])
    bench = Bench(load_tiny)
    start = bench.start(cell)
    monkeypatch.setitem(start.text, "nats", [value + 1e-6 for value in start.text["nats"]])
    with pytest.raises(TextanchorError, match="moved"):
        run_cell(cell, bench)


def test_the_base_decides_what_is_retained_where_nobody_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cells_of(tmp_path, tasks={"digits": {}})[0]
    monkeypatch.setattr(bench_module, "can_do", lambda rows, task, num_validation: task in ("count", "words"))
    assert Bench(load_tiny).start(cell).suites.retained == ("count", "words")
    monkeypatch.setattr(bench_module, "can_do", lambda rows, task, num_validation: False)
    with pytest.raises(TextanchorError, match="can do none"):
        run_cell(cell, Bench(load_tiny))


def test_a_record_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    run(write_matrix(tmp_path), tmp_path / "out", only=["seed=0", "arm=plain"])
    results = Results(tmp_path / "out")
    (record,) = (tmp_path / "out" / "runs").iterdir()
    for content in (record.read_text(), "{"):
        temporary_sibling(record).write_text(content)
    assert [found.name for found in results.records()] == [record.stem]
    outcome = run(write_matrix(tmp_path), tmp_path / "out", only=["seed=0", "arm=plain"])
    assert (outcome.num_done, outcome.num_left) == (1, 0)
    assert list((tmp_path / "out" / "runs").iterdir()) == [record]


def test_failed_cells_are_kept_apart_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, out = write_matrix(tmp_path), tmp_path / "out"

    def failing(cell: Cell, bench: Bench) -> RunRecord:
        if cell.name == NAMES[1]:
            raise RuntimeError("out of luck")
        return run_cell(cell, bench)

    monkeypatch.setattr(command, "run_cell", failing)
    outcome = run(matrix, out)
    assert (outcome.num_done, outcome.num_failed, outcome.num_left) == (3, 1, 0)
    told = (out / "failed" / f"{NAMES[1]}.txt").read_text()
    assert "out of luck" in told
    assert "Traceback" in told
    monkeypatch.setattr(command, "run_cell", run_cell)
    assert run(matrix, out).num_done == 4
    assert not any((out / "failed").iterdir())


def test_records_of_other_code_are_refused_or_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, out = write_matrix(tmp_path, seeds=[0]), tmp_path / "out"
    run(matrix, out)
    monkeypatch.setattr(command, "code_hash", lambda: "0" * 64)
    with pytest.raises(TextanchorError, match=r"2 of 2 records.*other code"):
        run(matrix, out)
    assert run(matrix, out, rerun_stale=True, only=["arm=plain"]).num_done == 1
    assert len(list((out / "stale").rglob("*.json"))) == 1


@pytest.mark.parametrize("fast", ["float32", "bfloat16"])
def test_runs_of_one_folder_keep_to_one_precision(fast: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run decides, also where a later call is on a machine that would choose otherwise."""
    slow = {"float32": "bfloat16", "bfloat16": "float32"}[fast]
    matrix, out = write_matrix(tmp_path), tmp_path / "out"
    monkeypatch.setattr(precision_module, "product_speeds", lambda device, shapes: {fast: 100.0, slow: 10.0})
    run(matrix, out, only=["arm=plain", "seed=0"])
    monkeypatch.setattr(precision_module, "product_speeds", lambda device, shapes: {fast: 10.0, slow: 100.0})
    run(matrix, out, only=["arm=plain", "seed=1"])
    chosen = {name: read(out, name).extra for name in NAMES[2:]}
    for extra in chosen.values():
        assert extra["precision"]["used"] == extra["scoring_precision"]["used"] == fast
        assert extra["precision"]["asked"] == "auto"
    record = read(out, NAMES[3])
    record.extra["scoring_precision"]["used"] = slow
    record.save(out / "runs" / f"{NAMES[3]}.json")
    with pytest.raises(DataError, match=f"scoring was in {fast} in {NAMES[2]} and in {slow} in {NAMES[3]}"):
        run(matrix, out)


def read(out: Path, name: str) -> RunRecord:
    return RunRecord.load(out / "runs" / f"{name}.json")


def test_a_changed_configuration_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(write_matrix(tmp_path), out, only=["seed=0", "arm=plain"])
    changed = {**MATRIX["evaluation"], "test_items": 3}
    with pytest.raises(TextanchorError, match="another configuration"):
        run(write_matrix(tmp_path, evaluation=changed), out)


def test_it_stops_before_a_cell_that_would_not_be_finished_in_time(tmp_path: Path) -> None:
    outcome = run(write_matrix(tmp_path), tmp_path / "out", max_minutes=0)
    assert (outcome.num_done, outcome.num_left) == (0, 4)
    assert not (tmp_path / "out" / "runs").exists()


def test_a_killed_comparison_leaves_nothing_half_and_goes_on(tmp_path: Path) -> None:
    model, processor = tiny_llava_with_processor()
    model.save_pretrained(tmp_path / "tiny")
    processor.save_pretrained(tmp_path / "tiny")
    matrix = write_matrix(tmp_path, defaults={**MATRIX["defaults"], "model": str(tmp_path / "tiny")})
    arguments = [sys.executable, "-m", "textanchor.cli", "compare", str(matrix), "--out", str(tmp_path / "out")]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=os.environ.copy()) as process:
        runs = tmp_path / "out" / "runs"
        while process.poll() is None and not list(runs.glob("*.json")):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    finished = {path: path.stat().st_mtime_ns for path in runs.glob("*.json")}
    assert 1 <= len(finished) < 4
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(Results(tmp_path / "out").records()) == 4
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_adapt_of_the_same_configuration_trains_the_same(tmp_path: Path) -> None:
    """A comparison trains what `textanchor adapt` trains: the same losses."""
    cell = cells_of(tmp_path)[0]
    record = run_cell(cell, Bench(load_tiny))
    model, processor = load_tiny("tiny")
    config = type(cell.config)(**{**vars(cell.config), "output": tmp_path / "adapted"})
    with torch.random.fork_rng():
        result = adapt(config, model=model, processor=processor)
    assert result.record.extra["loss"] == record.extra["loss"]
    assert result.record.hashes["data"] == record.hashes["data"]
