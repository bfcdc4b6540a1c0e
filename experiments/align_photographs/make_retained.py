"""What the second base can do with photographs, as one folder for each task that step zero takes as folder:PATH.

    python experiments/align_photographs/make_retained.py --data DIR --out experiments/align_photographs/out/retained

`exist` and `animal` are about voc_objects (its random POPE questions as the test split of `exist`), `object_class` is
about caltech101. Test rows are of images that the alignment has not seen; rows of the train split are references. Rows
are in a random order, as step zero takes the first ones. The photographs are copied, and are not ours to ship.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from textanchor.data.json_rows import read_rows

SOURCES = {
    "exist": [("voc_objects/data.jsonl", "exist", "train"), ("voc_objects/pope_random.jsonl", "pope_random", "test")],
    "animal": [("voc_objects/data.jsonl", "animal", "train"), ("voc_objects/data.jsonl", "animal", "test")],
    "object_class": [
        ("caltech101/data.jsonl", "object_class", "train"),
        ("caltech101/data.jsonl", "object_class", "test"),
    ],
}
"""Task -> file, task in it, and split."""
MOST_ROWS = 500
"""Of each split."""
SEED = 0


def rows_of(path: Path, task: str, split: str, rng: np.random.Generator) -> list[dict]:
    """Rows in random order; the first of each image."""
    rows = [row for _, row in read_rows(path)]
    rows = [row for row in rows if (row["task"], row["split"]) == (task, split)]
    by_image: dict[str, dict] = {}
    for index in rng.permutation(len(rows)):
        by_image.setdefault(rows[int(index)]["image"], rows[int(index)])
    return list(by_image.values())[:MOST_ROWS]


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    rng = np.random.default_rng(SEED)
    for name, sources in SOURCES.items():
        folder = chosen.out / name
        (folder / "images").mkdir(parents=True, exist_ok=True)
        lines = []
        for file, task, split in sources:
            for row in rows_of(chosen.data / file, task, split, rng):
                shutil.copyfile((chosen.data / file).parent / row["image"], folder / row["image"])
                lines.append(json.dumps(row | {"task": name}, ensure_ascii=False))
        (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{len(lines)} rows: {folder}")


if __name__ == "__main__":
    main()
