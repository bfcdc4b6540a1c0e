"""Tiny models of any family in our trainer and in the Trainer itself, on rows that need no processor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.tiny_families import IMAGE
from helpers.tiny_models import tiny_inputs, tiny_vlm
from textanchor.training.config import PartConfig, PartsConfig, TrainingConfig
from textanchor.training.sequences import IGNORED, Example
from textanchor.training.trainable import set_up_training
from textanchor.training.trainer import AdaptTrainer, training_arguments

PARTS = PartsConfig(
    projector=PartConfig(train="full", learning_rate=1e-2),
    language_model=PartConfig(train="lora", learning_rate=1e-2, rank=2),
)


def answered_rows(name: str, count: int = 8) -> list[dict[str, Tensor]]:
    """One image, other words and an answer of another length in each."""
    rows = []
    for i in range(count):
        row = tiny_inputs(name)
        ids_BL = row["input_ids"].clone()
        ids_BL[:, -4:] = 10 + (ids_BL[:, -4:] + 3 * i) % 30
        labels_BL = torch.full_like(ids_BL, IGNORED)
        labels_BL[:, -1 - i % 4 :] = ids_BL[:, -1 - i % 4 :]
        assert not (labels_BL == IMAGE).any()
        rows.append(row | {"input_ids": ids_BL, "labels": labels_BL})
    return rows


def joined_rows(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of rows of equal length."""
    return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}


def examples_of(name: str) -> list[Example]:
    """The same rows without padding, as our collator takes them."""
    found = []
    for i, row in enumerate(answered_rows(name)):
        ids_BL, labels_BL, _ = (row.pop(key) for key in ("input_ids", "labels", "attention_mask"))
        of_tokens = {key for key, tensor in row.items() if tensor.shape == ids_BL.shape}
        found.append(
            Example(
                id=str(i),
                input_ids_L=ids_BL[0],
                labels_L=labels_BL[0],
                token_inputs={key: row[key][0] for key in of_tokens},
                visual_inputs={key: row[key] for key in row.keys() - of_tokens},
            )
        )
    return found


class LetterTokenizer:
    """One token for each letter, for anchors of models whose vocabulary is small."""

    pad_token_id, bos_token_id = 0, None

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [5 + ord(letter) % 50 for letter in text]}


def family_trainer(name: str, folder: Path, *, optim: str = "adamw_torch", **changes: Any) -> AdaptTrainer:
    """Ours, on a fresh model of the family: its projector in full, LoRA on its language model."""
    parts = set_up_training(tiny_vlm(name), PARTS, seed=0)
    config = TrainingConfig(**{"max_steps": 4, "batch_size": 2, "warmup": 0.0, "scheduler": "constant"} | changes)
    arguments = training_arguments(config, folder, bfloat16=False)
    arguments.disable_tqdm, arguments.optim = True, optim
    return AdaptTrainer(arguments, parts, answered_rows(name), joined_rows, rates=PARTS)  # pyright: ignore
