"""Importing stays light: what each entry point must not load, asked in a new process."""

import json
import subprocess
import sys

import pytest

LIBRARIES = ["torch", "transformers", "peft", "accelerate", "matplotlib", "scipy", "sklearn", "skimage", "numpy"]
LIBRARIES += ["lm_eval", "datasets"]


def loaded_by(code: str) -> set[str]:
    """Those of LIBRARIES that are loaded after running `code` in a new process."""
    report = f"import sys, json\nprint('\\n' + json.dumps([n for n in {LIBRARIES} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


SHOW_HELP = """
import sys
from textanchor.cli.main import app
sys.argv[1:] = {arguments}
try:
    app()
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import textanchor", set()),
        ("import textanchor; textanchor.TextanchorError; dir(textanchor)", set()),
        ("import textanchor.fetch, textanchor.config, textanchor.records", set()),
        ("import textanchor.stats", {"numpy"}),
        (SHOW_HELP.format(arguments=["--help"]), set()),
        (SHOW_HELP.format(arguments=["adapt", "--help"]), set()),
        ("import textanchor.spectral", {"numpy", "torch"}),
        ("import textanchor.geometry", {"numpy", "torch"}),
        ("import textanchor.holds", {"numpy", "torch"}),
        ("import textanchor; textanchor.attach", {"numpy", "torch"}),
        ("import textanchor.vlm.parts, textanchor.vlm.families, textanchor.vlm.capture", {"numpy", "torch"}),
        ("import textanchor.report", {"numpy", "matplotlib"}),
        ("import textanchor.data", {"numpy"}),
    ],
)
def test_import_loads_no_more_than_it_needs(code: str, allowed: set[str]) -> None:
    assert loaded_by(code) <= allowed


def test_this_test_can_fail() -> None:
    assert loaded_by("import textanchor.stats") == {"numpy"}
