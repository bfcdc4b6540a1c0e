"""Conversations on real photographs, for a second base model whose alignment does not rest on drawings.

    python experiments/align_photographs/make_data.py --data DIR --out experiments/align_photographs/out/train.json

`DIR` holds the folders voc_objects, caltech101 and flickr8k_1k, each with a data.jsonl of rows (image, task, question,
answer, choices, split). Only rows of their train splits are taken; counting is left out, it is a task to learn later.
The photographs are not ours to ship, so neither the file nor the model that is made from it is committed.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from textanchor.data.json_rows import read_rows

TASKS = {"voc_objects": ("exist", "animal"), "caltech101": ("object_class",), "flickr8k_1k": ("caption",)}
MOST_TURNS = {"exist": 3, "animal": 1, "object_class": 1, "caption": 2}
"""Questions of one kind about one image, so that long ones do not fill the training."""
SEED = 0


def conversations(folder: Path, tasks: tuple[str, ...], rng: np.random.Generator) -> list[dict]:
    """One conversation for each image, its questions in random order, in LLaVA's format."""
    by_image: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for _, row in read_rows(folder / "data.jsonl"):
        if row["split"] == "train" and row["task"] in tasks:
            by_image[row["image"]][row["task"]].append(row)
    found = []
    for image, by_task in by_image.items():
        rows = [row for task, own in by_task.items() for row in _some(own, MOST_TURNS[task], rng)]
        turns = []
        for row in _some(rows, len(rows), rng):
            turns += [{"from": "human", "value": row["question"]}, {"from": "gpt", "value": row["answer"]}]
        turns[0]["value"] = f"<image>\n{turns[0]['value']}"
        found.append({"id": f"{folder.name}/{image}", "image": f"{folder.name}/{image}", "conversations": turns})
    return found


def _some(rows: list[dict], most: int, rng: np.random.Generator) -> list[dict]:
    return [rows[int(i)] for i in rng.permutation(len(rows))[:most]]


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    rng = np.random.default_rng(SEED)
    rows = [row for name, tasks in TASKS.items() for row in conversations(chosen.data / name, tasks, rng)]
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    print(f"{len(rows)} conversations, {sum(len(row['conversations']) // 2 for row in rows)} turns: {chosen.out}")


if __name__ == "__main__":
    main()
