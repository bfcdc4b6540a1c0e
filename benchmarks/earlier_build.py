"""Another commit of this repository to measure beside the present one; a part of the other scripts."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""Keeps a process from AVX-512, which a machine with it obeys."""


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A folder with the files of that commit, for the duration of the block."""
    git = ["git", "-C", str(REPOSITORY), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        earlier = Path(folder) / "earlier"
        subprocess.run([*git, "add", "--detach", str(earlier), revision], check=True, capture_output=True)
        try:
            yield earlier
        finally:
            subprocess.run([*git, "remove", "--force", str(earlier)], check=True, capture_output=True)


def environment_of(source: Path, *, avx2: bool) -> dict[str, str]:
    """Environment of a process that imports the build in `source`."""
    return {**os.environ, "PYTHONPATH": str(source / "src"), **(AVX2 if avx2 else {})}
