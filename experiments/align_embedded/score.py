"""Score the shipped alignment on held-out single questions and on text, and write the result into its record.

`--wikitext` takes WikiText-2's test part as plain text, which is not ours to ship; its long paragraphs are the texts.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from textanchor.errors import DataError
from textanchor.evaluation.registry import load_suite
from textanchor.evaluation.results.summary import summarise
from textanchor.evaluation.run import evaluate
from textanchor.evaluation.suite import EvaluationOptions
from textanchor.evaluation.suites.text import TextSuite
from textanchor.files import lines_of, read_json, read_text, write_json
from textanchor.records import environment
from textanchor.vlm.embedded import ALIGNMENT_FOLDER, assemble, load_embedded

TASKS = ("existence", "shape", "color", "position", "count", "size", "comparison", "easy_vqa", "words", "digits")


def wikitext_suite(path: Path, base, *, num_texts: int) -> TextSuite:
    lines = lines_of(read_text(path))
    texts = {f"wikitext-{number}": line.strip() for number, line in enumerate(lines) if len(line) > 400}
    if not texts:
        raise DataError(f"{path}: no line has more than 400 characters; give WikiText-2's test part as plain text")
    return TextSuite(name="wikitext", texts=dict(list(texts.items())[:num_texts]), base=base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-items", type=int, default=200)
    parser.add_argument("--wikitext", type=Path, help="plain text, a paragraph on each line")
    parser.add_argument("--num-texts", type=int, default=100)
    args = parser.parse_args()
    torch.manual_seed(0)
    began = time.monotonic()
    model, processor = load_embedded()
    base, _ = assemble()
    suites = [load_suite(task, num_items=args.num_items) for task in TASKS]
    suites.append(load_suite("pope_scenes", num_items=args.num_items))
    suites.append(load_suite("chair_scenes", num_items=100))
    suites.append(load_suite("text", num_items=80, base=base))
    options = EvaluationOptions(batch_size=24)
    scores = summarise(evaluate(model, processor, suites, options=options))
    if args.wikitext:
        suite = wikitext_suite(args.wikitext, base, num_texts=args.num_texts)
        after = summarise(suite.score(model, processor, options))["text"]
        before = summarise(TextSuite(name="wikitext", texts=suite.texts).score(base, processor, options))["text"]
        scores["wikitext"] = {"before": before, "after": after}
    record = read_json(ALIGNMENT_FOLDER / "record.json")
    record["scores"] = scores
    record["scored"] = {"num_items": args.num_items, "seconds": time.monotonic() - began, "environment": environment()}
    write_json(ALIGNMENT_FOLDER / "record.json", record)
    for task, found in scores["tasks"].items():
        accuracy, beside = (
            found["accuracy"]["estimate"],
            f"blind {found['blind']:.3f}  majority {found['majority']:.3f}",
        )
        print(f"{task:12s} {accuracy:.3f}  {beside}")
    print(json.dumps({key: scores[key] for key in scores if key != "tasks"}, indent=1))


if __name__ == "__main__":
    main()
