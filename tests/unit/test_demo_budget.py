"""The demo fits into its minutes: sizes follow from what was timed, and the time left from what has passed."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from textanchor.demo import machine, progress
from textanchor.demo.budget import MARGIN, Speed, choose_size, expected_seconds
from textanchor.demo.config import SIZES, DemoConfig
from textanchor.demo.machine import examine, require_machine
from textanchor.demo.progress import DemoProgress
from textanchor.demo.run import run_demo
from textanchor.errors import ConfigError, TextanchorError

SPEED = Speed(step=0.5, question=0.03, text=0.2, caption=0.2, anchor_text=0.5, anchor_image=0.02, eigen=0.02)
WORK = 400.0


def slower(factor: float) -> Speed:
    return Speed(**{name: factor * seconds for name, seconds in SPEED.record().items()})


def seconds_of(config: DemoConfig, speed: Speed) -> float:
    return sum(expected_seconds(config, speed, WORK).values())


def test_every_size_takes_less_than_the_one_before() -> None:
    needed = [seconds_of(replace(DemoConfig(), **changes), SPEED) for changes in SIZES]
    assert needed == sorted(needed, reverse=True) and len(set(needed)) == len(SIZES)
    assert SIZES[0] == {} and needed[-1] < needed[0] / 2


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_the_largest_size_that_fits_is_taken(factor: float) -> None:
    minutes, speed = 8.0, slower(factor)
    chosen = choose_size(DemoConfig(), speed, WORK, 60 * minutes)
    assert MARGIN * seconds_of(chosen, speed) <= 60 * minutes
    larger = [
        c
        for c in (replace(DemoConfig(), **changes) for changes in SIZES)
        if seconds_of(c, speed) > seconds_of(chosen, speed)
    ]
    assert all(MARGIN * seconds_of(config, speed) > 60 * minutes for config in larger)


def test_a_machine_that_is_too_slow_is_told_how_long_it_needs() -> None:
    smallest = replace(DemoConfig(), **SIZES[-1])
    with pytest.raises(ConfigError, match=r"smallest demo takes about \d+ minutes .* give --minutes") as error:
        choose_size(DemoConfig(), slower(20), WORK, 480)
    given = float(re.findall(r"--minutes (\d+)", str(error.value))[0])
    assert choose_size(DemoConfig(), slower(20), WORK, 60 * given) == smallest


def test_what_is_cut_is_told_in_words() -> None:
    assert DemoConfig().cut() == ""
    told = replace(DemoConfig(), **SIZES[-1]).cut()
    assert "32 of 64 steps" in told and "100 of 300 reference images" in told


def test_seed_and_task_survive_the_choice() -> None:
    config = DemoConfig(task="words", seed=3)
    chosen = choose_size(config, slower(2), WORK, 480)
    assert (chosen.task, chosen.seed) == ("words", 3)


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


def test_the_time_left_learns_from_what_has_passed(clock: Clock) -> None:
    shown = DemoProgress(Console(file=io.StringIO()))
    clock.now = 5.0
    shown.expect({"a": 100.0, "b": 50.0})
    assert shown.seconds_left == 150
    with shown.phase("a", "first"):
        clock.now = 105.0
        shown.advance(1, 2, "half")
        assert shown.seconds_left == pytest.approx(200), "half of the first phase took twice as long as expected"
        clock.now = 205.0
    assert shown.seconds_left == pytest.approx(100)
    assert shown.told() == {"a": {"expected": 100.0, "taken": 200.0}}


def test_a_file_gets_a_line_every_so_often(clock: Clock) -> None:
    output = io.StringIO()
    shown = DemoProgress(Console(file=output))
    shown.expect({"a": 100.0})
    with shown.phase("a", "first"):
        for step in range(1, 101):
            clock.now = float(step)
            shown.advance(step, 100, f"step {step} of 100")
    lines = output.getvalue().splitlines()
    assert len(lines) == 7, "the phase, then one in 15 seconds"
    assert lines[2] == " 0:30  step 30 of 100, about 70 s to the report"


def test_minutes_that_are_none_and_a_full_folder_are_refused_before_anything(tmp_path: Path) -> None:
    for minutes in (0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="--minutes"):
            run_demo(tmp_path / "out", task="digits", seed=0, minutes=minutes)
    assert not (tmp_path / "out").exists()


def test_a_machine_without_memory_or_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    require_machine(said.append)
    assert len(said) == 2 and "GB free" in said[0]
    monkeypatch.setattr(machine, "_free_memory_gb", lambda: 3.2)
    with pytest.raises(TextanchorError, match=r"3\.2 GB free, the demo takes up to 4\.2\. Close"):
        run_demo(tmp_path / "out", task="digits", seed=0)
    monkeypatch.setattr(machine, "_free_memory_gb", lambda: 9.0)
    monkeypatch.setattr(machine, "DISK_GB", 1e9)
    with pytest.raises(TextanchorError, match="TEXTANCHOR_CACHE"):
        run_demo(tmp_path / "out", task="digits", seed=0)
    assert not (tmp_path / "out").exists()


def test_a_container_counts_as_its_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    whole = machine._free_memory_gb()
    (tmp_path / "memory.current").write_text("1000000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._free_memory_gb() == pytest.approx(whole, rel=0.2)
    (tmp_path / "memory.max").write_text("1500000000\n")
    assert machine._free_memory_gb() == 0.5


def test_the_doctor_has_a_line_for_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEXTANCHOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    findings = {finding.what: finding for finding in examine()}
    assert list(findings) == ["python", "libraries", "device", "precision", "memory", "disk", "files", "registry"]
    assert "not there yet" in findings["files"].found
    assert "PIP_INDEX_URL" in str(findings["registry"]) and str(findings["registry"]).startswith("problem")
    assert str(findings["python"]).startswith("ok")
