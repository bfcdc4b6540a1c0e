"""Who answers, as a hash: everything beside the items that decides a score or moves it by rounding."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from textanchor.evaluation.scoring.prompting import tokenizer_of
from textanchor.evaluation.suite import EvaluationOptions
from textanchor.files import sha256_of_json, sha256_of_sources
from textanchor.records import environment
from textanchor.vlm.names import unwrapped

COMPUTING = ("evaluation", "vlm", "data")
"""Packages whose code decides a score; a changed line in one of them is another answerer."""


def answerer_hash(model_hash: str, model: nn.Module, processor: Any, options: EvaluationOptions) -> str:
    """SHA-256 of weights, configuration, adapters, tokens, prompt template, image processing, versions and our code."""
    plain: Any = unwrapped(model)
    image_processor = getattr(processor, "image_processor", None)
    return sha256_of_json(
        {
            "weights": model_hash,
            "config": plain.config.to_json_string(use_diff=False),
            "attention": plain.config.get_text_config()._attn_implementation,
            "adapters": repr(getattr(model, "peft_config", None)),  # their scaling is no weight
            "device": str(plain.device),
            "tokens": _tokenizer(processor),
            "template": getattr(processor, "chat_template", None),
            "images": image_processor.to_json_string() if image_processor is not None else None,
            "options": [options.precision, options.sharing, options.max_tokens, options.batch_size],
            "versions": environment()["versions"],
            "code": _code_hash(),
        }
    )


def _tokenizer(processor: Any) -> dict[str, Any]:
    """The tokenizer without the padding and truncation that its last call has left in it."""
    content = json.loads(tokenizer_of(processor).backend_tokenizer.to_str())
    return {key: value for key, value in content.items() if key not in ("padding", "truncation")}


def _code_hash() -> str:
    package = Path(__file__).parents[1]
    return sha256_of_sources((file for folder in COMPUTING for file in (package / folder).rglob("*.py")), package)
