"""Print the tables of step zero from a folder of its records: python experiments/step_zero/tables.py FOLDER"""

import sys
from pathlib import Path

from textanchor.records import RunRecord
from textanchor.report.step_zero import step_zero_tables

if __name__ == "__main__":
    records = [RunRecord.load(path) for path in sorted(Path(sys.argv[1]).rglob("*.json"))]
    print("\n\n".join(step_zero_tables(records)))
