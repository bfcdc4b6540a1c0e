"""Copies what a run measured into docs/evidence/, small and without paths of the machine that it was made on.

python docs/take_records.py COMPARISON NAME   # records of `textanchor compare`: docs/evidence/compare/NAME/runs
python docs/take_records.py EVALUATION NAME   # of `textanchor evaluate`: docs/evidence/evaluation/NAME.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

EVIDENCE = Path(__file__).with_name("evidence")
NOTE = "Cut from the command's own files: the record without rows of single items, its summary, and what was kept."


def named(value: Any) -> Any:
    """With absolute paths cut down to their last part."""
    if isinstance(value, dict):
        return {key: named(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [named(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(record: dict[str, Any], path: Path) -> None:
    """As every record is written, with paths cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(named(record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path)


def take_evaluation(folder: Path, name: str) -> None:
    """One file with the record, the summary and, where there was a baseline, what was kept."""
    record = read(folder / "run.json")
    record |= {"num_rows": len(record.pop("scores")), "summary": read(folder / "summary.json"), "note": NOTE}
    if (folder / "retention.json").is_file():
        record["retention"] = read(folder / "retention.json")
    write(record, EVIDENCE / "evaluation" / f"{name}.json")


def main(folder: Path, name: str) -> None:
    """Copy what the folder holds."""
    if (folder / "run.json").is_file():
        take_evaluation(folder, name)
    for path in sorted((folder / "runs").glob("*.json")):
        write(read(path), EVIDENCE / "compare" / name / "runs" / path.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    chosen = parser.parse_args()
    main(chosen.folder, chosen.name)
