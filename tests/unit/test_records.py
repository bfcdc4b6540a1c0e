import json
import subprocess
import sys
from pathlib import Path

import pytest

from textanchor import records
from textanchor.errors import ConfigError, DataError
from textanchor.records import RunRecord, Score, environment, memory_cost, source_commit


def score(item_id: str, value: float, metric: str = "correct") -> Score:
    return Score(suite="shape", version="1", item_id=item_id, metric=metric, value=value, answer="circle")


RECORD = RunRecord(
    name="demo",
    method="app",
    seed=3,
    config={"model": "embedded", "lr": 1e-4},
    command=["textanchor", "demo"],
    cost={"seconds": 2.5},
    scores=[score("a", 1.0), score("b", 0.0), score("a", 0.3, "gold_nats")],
    extra={"list": [1, None]},
)


def test_save_and_load(tmp_path: Path) -> None:
    RECORD.save(tmp_path / "run.json")
    assert RunRecord.load(tmp_path / "run.json") == RECORD


def test_load_refuses_what_is_not_a_record(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("[]")
    with pytest.raises(DataError, match=r"run\.json: not a run record"):
        RunRecord.load(path)
    RECORD.save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 2}))
    with pytest.raises(DataError, match="format version 1"):
        RunRecord.load(path)
    content["scores"][1]["value"] = "high"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"run\.json: scores\[1\]\.value: expected a number, found 'high'"):
        RunRecord.load(path)


def test_text_shows_the_means() -> None:
    lines = str(RECORD).splitlines()
    assert lines[0] == "demo: method app, seed 3"
    assert lines[1].split() == ["shape", "correct", "0.5000", "(2", "items)"]
    assert lines[2].split() == ["shape", "gold_nats", "0.3000", "(1", "items)"]


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("/home/anna/.venv/bin/textanchor", "textanchor"),
        (str(Path(records.__file__).parent / "cli" / "__main__.py"), "textanchor"),
        ("/home/anna/study/__main__.py", "__main__.py"),
        ("study/train.py", "train.py"),
    ],
)
def test_the_command_is_told_without_this_machine_s_folders(
    program: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [program, "adapt", "a.yaml"])
    assert RunRecord(name="a", method="full", seed=0).command == [name, "adapt", "a.yaml"]


def test_environment_fits_a_record(tmp_path: Path) -> None:
    found = environment()
    assert {"python", "textanchor", "torch", "transformers"} <= found["versions"].keys()
    assert found["hardware"]["num_cores"] >= 1
    RunRecord(name="a", method="full", seed=0, **found).save(tmp_path / "run.json")


@pytest.mark.skipif(sys.platform != "linux", reason="compares with what Linux says of the process")
def test_memory_is_the_peak_of_this_process() -> None:
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    assert memory_cost()["peak_memory_mb"] == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("tracked", [True, False])
def test_commit_is_that_of_our_own_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: bool) -> None:
    """A copy that is installed inside somebody else's repository must not take over that repository's commit."""

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    for name in ("records.py", "other.py"):
        (tmp_path / name).write_text("1")
    git("init", "--quiet")
    git("add", "records.py" if tracked else "other.py")
    git("commit", "--quiet", "-m", "first")
    monkeypatch.setattr(records, "__file__", str(tmp_path / "records.py"))
    assert source_commit() == (git("rev-parse", "HEAD") if tracked else None)
    if tracked:
        (tmp_path / "records.py").write_text("2")
        assert source_commit() == git("rev-parse", "HEAD") + "-dirty"
