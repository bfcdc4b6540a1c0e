"""The part of an evaluation's folder that is committed as evidence: the record without its rows, and the summary.

textanchor evaluate embedded --suite all-offline --out DIR --no-cache
python experiments/evaluation_record/cut.py DIR docs/evidence/evaluation/NAME.json
"""

import json
import sys
from pathlib import Path
from typing import Any

NOTE = "Cut from the command's own run.json and summary.json: no rows of single items, folders by their last name."
RETENTION = "retention.json"


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def named(value: Any) -> Any:
    """With paths cut down to their last part: a record says nothing of the machine that it was made on."""
    if isinstance(value, dict):
        return {key: named(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [named(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def main(folder: Path, target: Path) -> None:
    """Write the record."""
    record = read(folder / "run.json")
    record["num_rows"] = len(record.pop("scores"))
    found = {**record, "summary": read(folder / "summary.json")}
    if (folder / RETENTION).is_file():
        found["retention"] = read(folder / RETENTION)
    target.write_text(json.dumps(named(found) | {"note": NOTE}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
