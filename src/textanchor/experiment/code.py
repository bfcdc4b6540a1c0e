"""Which code a record was computed with."""

from pathlib import Path

from textanchor.files import sha256_of_sources

CHANGE_NO_RECORD = (
    "cli",
    "report",
    "analysis",
    "demo",
    "diffs",
    "repairs",
    "experiment/reading",
    "experiment/command.py",
    "experiment/results.py",
)
"""Parts of the package that no run of a comparison goes through; a test checks that none is imported by one."""


def code_hash() -> str:
    """SHA-256 of all our Python files that can change what a run gives."""
    package = Path(__file__).parents[1]
    left_out = [package / name for name in CHANGE_NO_RECORD]
    files = [file for file in package.rglob("*.py") if not any(file.is_relative_to(folder) for folder in left_out)]
    return sha256_of_sources(files, package)
