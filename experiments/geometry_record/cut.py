"""The part of a `geometry.json` that is committed as evidence: numbers only, small.

    textanchor measure embedded --data DIR --out out
    python experiments/geometry_record/cut.py out/geometry.json docs/evidence/geometry/NAME.json

Left out are the gallery and the points of the gap map (both show single images), and all but the first 64 values of
each spectrum; numbers are rounded to five digits.
"""

import json
import sys
from pathlib import Path
from typing import Any

NOTE = (
    "Cut from the command's own geometry.json: no gallery, no map points, the first 64 values of each spectrum, "
    "five digits."
)
NUM_VALUES = 64
DIGITS = 5


def rounded(value: Any) -> Any:
    """The value with its numbers rounded."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return value


def main(source: Path, target: Path) -> None:
    """Write the record."""
    found = json.loads(source.read_text(encoding="utf-8"))
    found["lens"]["gallery"], found["gap_map"] = [], []
    found["spectra"] = {place: values[:NUM_VALUES] for place, values in found["spectra"].items()}
    if "--out" in found["command"]:
        found["command"][found["command"].index("--out") + 1] = "out"
    target.write_text(json.dumps(rounded(found | {"note": NOTE}), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
