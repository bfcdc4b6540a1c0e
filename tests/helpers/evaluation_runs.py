"""A small evaluation, to be interrupted; `python -m helpers.evaluation_runs FOLDER` runs it in a process of its own."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.tiny_chat import tiny_chat_model
from textanchor.evaluation.registry import load_suites
from textanchor.evaluation.run import evaluate_to_folder
from textanchor.evaluation.suite import EvaluationOptions
from textanchor.evaluation.suites.captions import CaptionSuite

NAMES = ("color", "chair_scenes", "pope_scenes", "text")


def evaluate_tiny(model: Any, processor: Any, folder: Path, *, sharing: Any = "auto") -> Any:
    """Score a tiny model on two items of a few suites into `folder`."""
    options = EvaluationOptions(batch_size=2, max_tokens=200, sharing=sharing)
    suites = [
        replace(suite, max_new_tokens=4) if isinstance(suite, CaptionSuite) else suite
        for suite in load_suites(NAMES, num_items=2)
    ]
    return evaluate_to_folder(model, processor, suites, folder, name="tiny", options=options, progress=False)


if __name__ == "__main__":
    evaluate_tiny(*tiny_chat_model("llava"), Path(sys.argv[1]))
