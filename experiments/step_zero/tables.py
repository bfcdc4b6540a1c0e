"""Print the tables of step zero from a folder of its records, of all tasks or of one:

python experiments/step_zero/tables.py FOLDER [--task TASK]
"""

import argparse
from pathlib import Path

from page import step_zero_stages, step_zero_tables

from textanchor.records import RunRecord
from textanchor.tables import markdown_tables

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", help="only the updates on this task")
    chosen = parser.parse_args()
    records = [RunRecord.load(path) for path in sorted(chosen.folder.rglob("*.json"))]
    if chosen.task is not None:
        records = [record for record in records if record.extra.get("task") == chosen.task]
    print(markdown_tables(step_zero_tables(step_zero_stages(records))))
