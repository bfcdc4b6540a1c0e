"""POPE of the embedded model and of a tiny random Qwen2.5-VL on a folder of photographs; scores only, no content.

    python experiments/hallucination/measure.py FOLDER --model embedded --out pope_embedded.json

FOLDER holds pope_{random,popular,adversarial}.jsonl and the images (docs/evaluation.md). A random model is at chance by
construction: its record shows that the suite runs on such a family and what chance looks like.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)
from transformers.processing_utils import ProcessorMixin

from textanchor.evaluation.registry import load_suites
from textanchor.evaluation.results.summary import summarise
from textanchor.evaluation.run import evaluate_to_folder
from textanchor.files import write_json
from textanchor.vlm.loading import load_vlm

TOKENS = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
AROUND = ("<|vision_start|>", "<|vision_end|>")
PATCH, MERGE = 14, 2
SIDE = 112
"""Images become 112 x 112 pixels, 16 image tokens."""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ImageProcessor(Qwen2_5_VLProcessor):
    """Qwen's processor without videos, whose part needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str):
        self.image_token, self.video_token = TOKENS.values()
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(list(TOKENS.values()))
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def random_qwen() -> tuple[Any, Any]:
    """Two layers of width 32 under seed 0, with the tokens of the embedded model and Qwen's own image processing."""
    tokenizer = load_vlm("embedded")[1].tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": [*TOKENS.values(), *AROUND]})
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in TOKENS.items()}
    start, end = tokenizer.convert_tokens_to_ids(list(AROUND))
    config = Qwen2_5_VLConfig(
        text_config=dict(
            **dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4),
            **dict(num_key_value_heads=2, vocab_size=len(tokenizer)),
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        ),
        vision_config=dict(
            **dict(depth=2, hidden_size=32, intermediate_size=48, num_heads=4, patch_size=PATCH, window_size=56),
            **dict(out_hidden_size=32, fullatt_block_indexes=[1], spatial_merge_size=MERGE),
        ),
        **ids,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    pixels = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2}
    images = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, size=pixels)
    return model, ImageProcessor(images, tokenizer, chat_template=TEMPLATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=("embedded", "random"), required=True)
    parser.add_argument("--num-items", type=int, default=500, help="questions of each strategy, drawn by seed 0")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    suites = load_suites([f"pope:{args.folder}"], num_items=args.num_items)
    model, processor = load_vlm("embedded") if args.model == "embedded" else random_qwen()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        record = evaluate_to_folder(model, processor, suites, Path(folder) / "run", name=args.model)
    write_json(
        args.out,
        {
            "model": args.model,
            "command": f"python experiments/hallucination/measure.py FOLDER --model {args.model} "
            f"--num-items {args.num_items} --out {args.out.name}",
            "data": f"{args.folder.resolve().name}, SHA-256 {suites[0].data_hash}",
            "summary": summarise(record.scores),
            "image_sharing": record.extra["image_sharing"],
            "seconds": time.monotonic() - began,
            **{key: getattr(record, key) for key in ("commit", "versions", "hardware", "hashes", "cost")},
        },
    )


if __name__ == "__main__":
    main()
