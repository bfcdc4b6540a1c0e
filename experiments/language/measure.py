"""Language scores of the embedded model and of a tiny random Qwen2.5-VL, on local files; counts and scores only.

    python experiments/language/measure.py FOLDER --model embedded --out docs/evidence/language/embedded.json

FOLDER holds the files that docs/language.md describes. `random` has the tokens of the embedded model.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from textanchor.evaluation.registry import load_suites
from textanchor.evaluation.results.summary import summarise
from textanchor.evaluation.run import evaluate_to_folder
from textanchor.evaluation.suites.language import LanguageSuite
from textanchor.files import write_json
from textanchor.vlm.loading import load_vlm

FILES = {"mmlu_test": 100, "hellaswag_val_5000": 100, "arc_easy_test": 100, "piqa_val": 100, "gsm8k_test": 16}
"""File -> items of it: about five minutes on two free cores."""
WIDTHS: dict[str, Any] = {
    "vision_config": dict(
        depth=2, hidden_size=32, intermediate_size=48, num_heads=4, patch_size=8, window_size=32, out_hidden_size=32
    ),
    "text_config": dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=("embedded", "random"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    suites = [
        suite
        for file, number in FILES.items()
        for suite in load_suites([f"language:{args.folder / file}.jsonl"], num_items=number)
    ]
    for suite in suites:
        assert isinstance(suite, LanguageSuite)
        print(suite.counts())
    model, processor = load_vlm("embedded")
    if args.model == "random":
        model = random_model(model)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        record = evaluate_to_folder(model, processor, suites, Path(folder) / "run", name=args.model)
    write_json(
        args.out,
        {
            "model": args.model,
            "command": f"python experiments/language/measure.py FOLDER --model {args.model} --out {args.out.name}",
            "items": {suite.name: suite.num_items for suite in suites if isinstance(suite, LanguageSuite)},
            "items_in_file": {suite.name: suite.num_available for suite in suites if isinstance(suite, LanguageSuite)},
            "language": summarise(record.scores)["language"],
            "seconds": time.monotonic() - began,
            "commit": record.commit,
            "versions": record.versions,
            "hardware": record.hardware,
            "hashes": record.hashes,
        },
    )


def random_model(like: Any) -> Any:
    """A Qwen2.5-VL of two layers and width 32 with random weights and the vocabulary of `like`."""
    text = like.config.get_text_config()
    special = {key: getattr(text, key) for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    config = Qwen2_5_VLConfig(
        vision_config=WIDTHS["vision_config"],
        text_config={**WIDTHS["text_config"], **special, "rope_parameters": rope, "max_position_embeddings": 2048},
    )
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config).eval()


if __name__ == "__main__":
    main()
