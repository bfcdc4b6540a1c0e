import math
from pathlib import Path

import pytest

from textanchor.errors import DataError, OutputError, TextanchorError
from textanchor.files import (
    CACHE_VARIABLE,
    atomic_directory,
    atomic_file,
    cache_dir,
    read_json,
    sha256_of_file,
    sha256_of_json,
    write_json,
)


def test_atomic_file_appears_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "figure.png"
    with atomic_file(target) as temporary:
        assert temporary.parent == target.parent, "a rename is atomic only within one file system"
        assert temporary.suffix == ".png"
        temporary.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert list(target.parent.iterdir()) == [target]


def test_atomic_file_keeps_the_old_one_on_error(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_directory_appears_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with atomic_directory(target) as temporary:
        (temporary / "a.txt").write_text("a")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a.txt"]
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_directory_leaves_nothing_on_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "run") as temporary:
        (temporary / "a.txt").write_text("a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_atomic_directory_refuses_content_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept.txt").write_text("kept")
    with pytest.raises(TextanchorError, match="not empty"), atomic_directory(tmp_path / "run"):
        pytest.fail("the work must not start")
    with pytest.raises(TextanchorError, match="found a file"), atomic_directory(tmp_path / "run" / "kept.txt"):
        pytest.fail("the work must not start")


@pytest.mark.parametrize("fails", [True, False])
def test_atomic_directory_overwrites_whole_or_not_at_all(tmp_path: Path, fails: bool) -> None:
    target = tmp_path / "run"
    target.mkdir()
    (target / "old.txt").write_text("old")
    try:
        with atomic_directory(target, overwrite=True) as temporary:
            (temporary / "new.txt").write_text("new")
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert [path.name for path in target.iterdir()] == ["old.txt" if fails else "new.txt"]
    assert list(tmp_path.iterdir()) == [target]


def test_json_round_trip(tmp_path: Path) -> None:
    content = {"path": Path("a/b"), "text": "größe", "list": [1, 2.5, None, True], "pair": (1, 2)}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == {**content, "path": "a/b", "pair": [1, 2]}


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_refuses_what_it_cannot_hold(tmp_path: Path, number: float) -> None:
    with pytest.raises(TextanchorError, match=r"runs\[1\]\.loss is not a finite number"):
        write_json(tmp_path / "a.json", {"runs": [{"loss": 1.0}, {"loss": number}]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n "a": 1,\n "b" 2}', r"a\.json, line 3, column 6: not valid JSON"),
        (b'{"a": "\xff"}', r"a\.json: not UTF-8 text \(byte 7\)"),
    ],
)
def test_read_json_names_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_json(tmp_path / "a.json")


def test_read_json_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read \(No such file"):
        read_json(tmp_path / "none.json")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of_json({"a": 1, "b": [2]}) == sha256_of_json({"b": [2], "a": 1})
    assert sha256_of_json({"a": 1}) != sha256_of_json({"a": 2})


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TEXTANCHOR_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "textanchor"
    monkeypatch.setenv("TEXTANCHOR_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"


def test_cache_dir_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "~nosuchuser/cache")
    with pytest.raises(OutputError, match="TEXTANCHOR_CACHE=~nosuchuser/cache: nobody of that name"):
        cache_dir()
