"""Places for outputs: one process at a time, leftovers of a kill, and what is said where the system refuses."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from textanchor.errors import OutputError
from textanchor.files import atomic_directory, atomic_file, write_text
from textanchor.outputs import (
    LOCK,
    claimed,
    finished,
    intended,
    require_free_directory,
    require_room,
    scratch_directory,
    temporary_sibling,
    writing,
)

HOLDER = """
import sys, time
from textanchor.outputs import claimed
with claimed(sys.argv[1]):
    print("claimed", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has claimed `tmp_path / "out"` until a line is written to it."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


@pytest.mark.parametrize("name", ["out", "./out", "other/../out", "link"])
def test_a_place_is_one_process_s(holder: subprocess.Popen[str], tmp_path: Path, name: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("out")
    with pytest.raises(OutputError, match=r"is in use, another run"), claimed(f"{tmp_path}/{name}"):
        pytest.fail("both have it")
    with claimed(tmp_path / "out2"):
        pass
    holder.kill()
    holder.wait()
    with claimed(f"{tmp_path}/{name}"):
        assert (tmp_path / f"{LOCK}out").exists()
    assert not (tmp_path / f"{LOCK}out").exists(), "the next one takes the lock of a killed one away"


def test_another_thread_is_refused_and_a_claim_within_a_claim_is_not(tmp_path: Path) -> None:
    told: list[str] = []

    def other() -> None:
        try:
            with claimed(tmp_path / "out"):
                told.append("claimed")
        except OutputError as error:
            told.append(str(error))

    with claimed(tmp_path / "out"):
        with claimed(tmp_path / "out"):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(told) == 1 and "is in use" in told[0]


def test_who_waits_has_it_afterwards(
    holder: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert holder.stdin is not None
    timer = threading.Timer(0.3, holder.stdin.close)
    timer.start()
    with claimed(tmp_path / "out", wait=True):
        timer.join()
        assert time.monotonic() - began > 0.25
        assert (tmp_path / f"{LOCK}out").exists(), "under its name, so that others see it"
    assert f"another process is writing {tmp_path / 'out'}; waiting" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


COUNTER = """
import sys
from pathlib import Path
from textanchor.outputs import claimed
count = Path(sys.argv[1])
for _ in range(10):
    with claimed(sys.argv[1], wait=True):
        before = int(count.read_text())
        count.unlink()
        count.write_text(str(before + 1))
"""


def test_many_that_wait_have_it_one_after_the_other(tmp_path: Path) -> None:
    """The lock file goes at each release, and is made anew: no two may ever hold different files of that name."""
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", COUNTER, str(tmp_path / "count")]
    processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "40"
    assert list(tmp_path.iterdir()) == [tmp_path / "count"]


def test_the_lock_lies_inside_where_only_the_folder_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("textanchor.outputs.os.access", lambda path, mode: Path(path) != tmp_path)
    with claimed(tmp_path / "out"):
        assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{LOCK}out"]
        require_free_directory(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_leftovers_of_a_kill_go_and_nothing_else_does(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for folder in (temporary_sibling(out), temporary_sibling(out, "old")):
        folder.mkdir()
        (folder / "a").touch()
    temporary_sibling(out / "a.json").touch()
    kept = [
        out / "a.json",
        out / ".hidden",
        temporary_sibling(tmp_path / "out2"),
        tmp_path / ".12345678.tmp",
        tmp_path / ".1234567.tmp.out",
        tmp_path / "12345678.tmp.out",
    ]
    for file in kept:
        file.touch()
    with atomic_directory(out / "within", overwrite=True), claimed(out):
        assert len(list(out.glob(".*.tmp.within"))) == 1, "a folder in it may be somebody else's"
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == sorted(kept)


def test_what_was_moved_away_for_a_new_one_comes_back(tmp_path: Path) -> None:
    """A kill between the two renames of a replaced folder."""
    old, new = temporary_sibling(tmp_path / "out", "old"), temporary_sibling(tmp_path / "out")
    for folder, content in ((old, "old"), (new, "new")):
        folder.mkdir()
        (folder / "a").write_text(content)
    with claimed(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_what_is_being_written_is_not_read(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "c.txt", ".d.json"):
        (tmp_path / name).touch()
    temporary_sibling(tmp_path / "e.json").touch()
    with claimed(tmp_path / "f.json"):
        assert [path.name for path in finished(tmp_path, "*.json")] == [".d.json", "a.json", "b.json"]
    assert finished(tmp_path / "none") == []
    assert intended(temporary_sibling(tmp_path / "out") / "a") == tmp_path / "out" / "a"


def below_a_file(folder: Path) -> str:
    (folder / "file").touch()
    return str(folder / "file" / "deep" / "out")


PLACES: dict[str, tuple[Callable[[Path], str], str]] = {
    "below a file": (below_a_file, "because .*file is a file; choose another place"),
    "long name": (lambda folder: str(folder / "new" / ("x" * 250)), "File name too long"),
    "nobody's home": (lambda folder: "~nobody/out", "begins with ~"),
    "home": (lambda folder: "~/out", "begins with ~"),
    "proc": (lambda folder: "/proc/out", "No such file or directory"),
    "deep in proc": (lambda folder: "/proc/self/out/deep", "No such file or directory"),
    "root": (lambda folder: "/", "the root of the file system"),
    "null": (lambda folder: str(folder / "a\0b"), "null character"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_place_where_nothing_can_be_written_is_told_before_the_work(kind: str, tmp_path: Path) -> None:
    make, message = PLACES[kind]
    path = make(tmp_path)
    before = list(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=message), atomic_directory(path):
        pytest.fail("the work must not start")
    assert list(tmp_path.rglob("*")) == before


def test_the_folder_one_is_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"^\.: is the folder you are in"), atomic_directory("."):
        pytest.fail("the work must not start")
    with claimed("."):
        write_text("a.txt", "a")
    assert finished(tmp_path) == [tmp_path / "a.txt"]
    with pytest.raises(OutputError, match="not empty"), atomic_directory("."):
        pytest.fail("the work must not start")


def test_folders_that_were_made_for_nothing_go_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "a" / "b" / "out"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_directory(tmp_path / "a" / "b" / "out"):
        pass
    assert (tmp_path / "a" / "b" / "out").is_dir()


def test_what_somebody_else_wrote_meanwhile_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="cannot be written"), atomic_directory(out) as folder:
        (folder / "a").touch()
        out.mkdir()
        (out / "theirs").touch()
    assert [path.name for path in out.iterdir()] == ["theirs"]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda: Path("/dev/full").write_bytes(b"x"), r"No space left on device.*make room"),
        (lambda: save_file({}, "/proc/x.safetensors"), r"\(No such file or directory; it.*choose another place"),
        (lambda: os.mkdir("/proc/x"), r"\(No such file or directory; it"),
    ],
)
def test_a_refusal_names_the_place_the_reason_and_the_room(
    write: Callable[[], None], message: str, tmp_path: Path
) -> None:
    path = temporary_sibling(tmp_path / "out") / "a.bin"
    with pytest.raises(OutputError, match=message) as told, writing(path, num_bytes=3 * 10**6):
        write()
    assert str(told.value).startswith(f"{tmp_path / 'out' / 'a.bin'}: cannot be written (")
    assert "it takes 3.0 MB, and " in str(told.value)


def test_other_errors_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), writing("a"):
        1 / 0  # noqa: B018
    with pytest.raises(OutputError, match="no room for moments"), writing("a", also=(RuntimeError,)):
        raise RuntimeError("no room for moments")


def test_room_is_asked_for_before_the_work(tmp_path: Path) -> None:
    require_room(tmp_path / "new" / "out", 1)
    with pytest.raises(OutputError, match=r"takes 1000000000\.0 GB, and .* are free"):
        require_room(tmp_path / "new" / "out", 10**18)


def test_scratch_is_gone_afterwards_and_so_is_what_a_kill_left(tmp_path: Path) -> None:
    left = temporary_sibling(tmp_path / "out" / "scratch")
    left.mkdir(parents=True)
    with scratch_directory(tmp_path / "out") as scratch:
        assert not left.exists()
        (scratch / "a").touch()
        assert finished(tmp_path / "out") == []
    assert list((tmp_path / "out").iterdir()) == []
    with scratch_directory(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 300, "is too long for the name of a file"),
        ("/".join(["y" * 200] * 30), "is too long for the name of a file"),
        ("a/" + "z" * 256 + "/b", "too long"),
        ("caf\udce9", "holds bytes that are no UTF-8"),
        ("a\udcff/b", "holds bytes that are no UTF-8"),
    ],
)
def test_names_that_no_file_or_no_record_can_have(name: str, message: str, tmp_path: Path) -> None:
    for refused in (claimed(tmp_path / name), atomic_directory(tmp_path / name)):
        with pytest.raises(OutputError, match=message), refused:
            pass
        assert list(tmp_path.iterdir()) == []


def test_no_file_takes_the_place_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe: is a device or a pipe"):
        write_text(tmp_path / "pipe", "a")
    with pytest.raises(OutputError, match="/dev/null: is a device"), atomic_file("/dev/null"):
        raise AssertionError("a device would be replaced")
    assert (tmp_path / "pipe").is_fifo()
