"""Print the tables of step zero from a folder of its records: python experiments/step_zero/tables.py FOLDER"""

import sys
from pathlib import Path

from textanchor.records import RunRecord
from textanchor.report.markdown import markdown_tables
from textanchor.report.step_zero import step_zero_stages, step_zero_tables

if __name__ == "__main__":
    records = [RunRecord.load(path) for path in sorted(Path(sys.argv[1]).rglob("*.json"))]
    print(markdown_tables(step_zero_tables(step_zero_stages(records))))
