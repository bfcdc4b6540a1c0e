"""Places for outputs: held by one process at a time, whole or not there, and one paragraph where the system refuses.

Beside an output lie, while it is written, `.XXXXXXXX.tmp.NAME` (it takes the name at the end), `.XXXXXXXX.old.NAME`
(what it replaces) and `.textanchor.lock.NAME`. None of them is ever read as an output; what a killed process has left
of them is cleared away when the next one claims the place.
"""

import errno
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from textanchor.errors import OutputError

TEMPORARY, REPLACED, SCRATCH = "tmp", "old", "scratch"
LOCK = ".textanchor.lock."
HIDDEN = re.compile(rf"\.[0-9a-f]{{8}}\.(?P<kind>{TEMPORARY}|{REPLACED})\.(?P<name>.+)|{re.escape(LOCK)}.+", re.DOTALL)
SAFETENSORS_CODE = re.compile(r"os error (\d+)")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def temporary_sibling(path: Path, kind: str = TEMPORARY) -> Path:
    """A new hidden name beside `path`, on the same file system, that is never read as an output."""
    # the end of the name is kept, because writers such as matplotlib choose the format by the suffix
    return path.with_name(f".{uuid.uuid4().hex[:8]}.{kind}.{path.name}")


def finished(folder: Path, pattern: str = "*") -> list[Path]:
    """What lies in `folder` under fitting names, sorted, without what is being written or was left half-written."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in paths if path.match(pattern) and not HIDDEN.fullmatch(path.name))


def intended(path: Path | str) -> Path:
    """The path with the names that its temporary parts will have, for messages."""
    found = [(HIDDEN.fullmatch(part), part) for part in Path(path).parts]
    return Path(*(match["name"] if match and match["name"] else part for match, part in found))


@contextmanager
def claimed(path: Path | str, *, wait: bool = False) -> Iterator[Path]:
    """Keep other processes off the output `path`, a file or a folder; gives it in full, without links.

    It is also the test, before the work, whether anything can be written there, and clears away what a killed process
    left. One thread may claim a place again inside its claim. OutputError where the place cannot be written, and where
    another process has it, unless this one is to `wait`.
    """
    from filelock import FileLock, Timeout  # late: light code imports this module

    place = _resolved(path)
    with folder_made(place.parent, path):
        file = _lock_file(place)
        lock = FileLock(file, is_singleton=True)
        try:
            file.touch()  # says why nothing can be written here, where the lock would only say that it is not free
            lock.acquire(blocking=False)
        except Timeout as error:
            if not wait:
                raise OutputError(
                    f"{path}: is in use, another run of textanchor is writing there; wait until it has ended, or give "
                    "another place"
                ) from error
            print(f"textanchor: another process is writing {path}; waiting for it", file=sys.stderr, flush=True)
            with writing(path):
                lock.acquire()
        except OSError as error:
            raise OutputError(_refusal(path, error)) from error
        is_outermost = lock.lock_counter == 1
        try:
            if is_outermost:
                with writing(path):
                    _clear_leftovers(place)
            yield place
        finally:
            if is_outermost:
                with suppress(OSError):  # Windows removes no open file; there the release does
                    file.unlink()  # while it is held: who waits for it sees that it is gone, and opens a new one
            lock.release()


@contextmanager
def writing(
    path: Path | str, *, num_bytes: int | None = None, also: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Within it, what the system refuses becomes an OutputError about `path`, which takes `num_bytes`.

    Nothing but writing belongs into it. `also` are errors by which a library says that it could not write.
    """
    safetensors = sys.modules.get("safetensors")  # asked only if it is loaded: light code imports this module
    refusals = (OSError, *also) if safetensors is None else (OSError, safetensors.SafetensorError, *also)
    try:
        yield
    except refusals as error:
        raise OutputError(_refusal(path, error, num_bytes)) from error


@contextmanager
def adding(hint: str) -> Iterator[None]:
    """Within it, an OutputError also says `hint`: what was kept, and how to go on."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{error}; {hint}") from error


@contextmanager
def folder_made(folder: Path, shown: Path | str) -> Iterator[None]:
    """`folder` and those above it, made where they are missing; those that were made go again if they stay empty."""
    above = [folder, *folder.parents]
    file = next((path for path in above if path.exists() and not path.is_dir()), None)
    if file is not None:
        raise OutputError(f"{shown}: cannot be made, because {file} is a file; choose another place")
    missing = [path for path in above if not path.exists()]
    try:
        with writing(shown):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in missing:
            with suppress(OSError):  # it holds the output
                path.rmdir()


def require_free_directory(path: Path | str, *, overwrite: bool = False) -> None:
    """Raise OutputError where `path` is a file, or a folder with content that may not be overwritten."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: expected a folder to write to, found a file; choose another output folder")
    with writing(path):
        content = finished(path)
    if content and not overwrite:
        raise OutputError(f"{path}: the output folder is not empty; choose another one, or remove it first")


def require_room(path: Path | str, num_bytes: int) -> None:
    """Raise OutputError where the disk of `path` has not `num_bytes` left, so that it is known before the work."""
    free = _free_bytes(_resolved(path))
    if free < num_bytes:
        raise OutputError(
            f"{path}: takes {_written(num_bytes)}, and {_written(free)} are free there; make room, or choose another "
            "place"
        )


@contextmanager
def scratch_directory(folder: Path) -> Iterator[Path]:
    """A hidden folder in the claimed output `folder`, for what is needed only now; one that a killed run left goes."""
    place = folder / SCRATCH
    with folder_made(folder, folder):
        with writing(folder):
            _clear_leftovers(place)
            scratch = temporary_sibling(place)
            scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def clear_half_written(folder: Path) -> None:
    """Remove the half-written files, but no folders, that killed runs left in `folder` of a claimed output."""
    for path in folder.iterdir() if folder.is_dir() else ():
        found = HIDDEN.fullmatch(path.name)
        if found is not None and found["kind"] == TEMPORARY and path.is_file():
            path.unlink(missing_ok=True)


def _clear_leftovers(place: Path) -> None:
    """Remove what a killed process left of `place`; what it had moved away and not yet replaced is put back."""
    for path in list(place.parent.iterdir()):
        found = HIDDEN.fullmatch(path.name)
        if found is None or found["name"] != place.name:
            continue
        if found["kind"] == REPLACED and not place.exists():
            path.rename(place)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    clear_half_written(place)


def _resolved(path: Path | str) -> Path:
    path = Path(path)
    if path.parts and path.parts[0].startswith("~"):
        raise OutputError(f"{path}: begins with ~, which nobody has replaced by a home folder; write its name in full")
    if "\0" in str(path):
        raise OutputError(f"{str(path)!r}: holds a null character, which no path may; give another name")
    place = Path(os.path.realpath(path))
    if not place.name:
        raise OutputError(f"{path}: is the root of the file system; give a folder in it")
    try:
        os.fsencode(place).decode()  # names go into records
        place.lstat()
    except UnicodeDecodeError as error:
        raise OutputError(f"{path!r}: holds bytes that are no UTF-8, so no record could name it; rename it") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(f"{intended(path)}: is too long for the name of a file; give a shorter one") from error
    return place


def _lock_file(place: Path) -> Path:
    """Beside the output; in it where only the folder itself may be written, such as a mounted volume."""
    folder = place.parent if os.access(place.parent, os.W_OK) or not place.is_dir() else place
    return folder / f"{LOCK}{place.name}"


def _refusal(path: Path | str, error: Exception, num_bytes: int | None = None) -> str:
    code = getattr(error, "errno", None)
    if code is None and (found := SAFETENSORS_CODE.search(str(error))):
        code = int(found[1])
    reason = str(error) if code is None else os.strerror(code)
    if num_bytes is not None:
        reason += f"; it takes {_written(num_bytes)}, and {_written(_free_bytes(_resolved(path)))} are free there"
    way_out = "make room, or choose another place" if code in NO_ROOM else "choose another place"
    return f"{intended(path)}: cannot be written ({reason}). What was there before is as it was; {way_out}"


def _free_bytes(place: Path) -> int:
    """What a file at `place` may take, by its disk."""
    return shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free


def _written(num_bytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"
