"""What some methods look at beside the training data: texts, and questions with images and answers of old tasks.

Shape legend: L tokens of one sequence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.bounds import require_range
from textanchor.data.conversations import read_conversations
from textanchor.data.items import Conversation
from textanchor.data.tasks import load_conversations
from textanchor.errors import ConfigError, DataError
from textanchor.training.collate import Collator
from textanchor.training.sequences import IGNORED, encode
from textanchor.vlm.chat import reads_prefix_both_ways

MAX_TEXT_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class OldData:
    """Conversations of what the model is to keep: of tasks of textanchor's own, or of a file."""

    tasks: tuple[str, ...] = ()
    """Tasks of `textanchor.data.tasks`, whose train split is used; give these or path."""
    path: Path | None = None
    """LLaVA JSON or JSONL, or Hugging Face chat records."""
    image_folder: Path | None = None
    """Folder that the image paths in `path` are relative to; the file's own folder where it is left out."""
    num_images: int
    """How many conversations to take: of each task, or from the beginning of the file."""

    def __post_init__(self) -> None:
        if bool(self.tasks) == (self.path is not None):
            raise ConfigError("give exactly one of tasks and path for the old data")
        if self.image_folder is not None and self.path is None:
            raise ConfigError("image_folder has no effect without path")
        require_range("num_images", self.num_images, least=1)

    def load(self, seed: int) -> list[Conversation]:
        """The conversations, with ids that name their task; DataError where the file has too few."""
        if self.path is None:
            return [
                Conversation(id=f"old-{task}-{c.id}", turns=c.turns, images=c.images, system=c.system)
                for task in self.tasks
                for c in load_conversations(task, split="train", num_images=self.num_images, seed=seed)
            ]
        found = read_conversations(self.path, self.image_folder)
        if len(found) < self.num_images:
            raise DataError(f"{self.path}: {len(found)} conversations, fewer than num_images={self.num_images}")
        return found[: self.num_images]


def text_inputs(processor: Any, texts: Sequence[str], device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Each text as a batch of one with input_ids and attention_mask (1, L), cut to 512 tokens; empty ones left out."""
    tokenizer = getattr(processor, "tokenizer", processor)
    for text in texts:
        ids_L = tokenizer(text)["input_ids"][:MAX_TEXT_TOKENS]
        if ids_L:
            ids_1L = torch.tensor([ids_L], device=device)
            yield {"input_ids": ids_1L, "attention_mask": torch.ones_like(ids_1L)}


def text_batches(processor: Any, texts: Sequence[str], device: torch.device) -> Iterator[dict[str, Tensor]]:
    """`text_inputs` with every token but the first as a label; texts of one token left out.

    For a model that reads in both directions what is not marked as an answer, every token is marked.
    """
    for inputs in text_inputs(processor, texts, device):
        if inputs["input_ids"].shape[1] > 1:
            labels_1L = inputs["input_ids"].clone()
            labels_1L[:, 0] = IGNORED
            marks = {"token_type_ids": torch.ones_like(labels_1L)} if reads_prefix_both_ways(processor) else {}
            yield inputs | marks | {"labels": labels_1L}


def conversation_batches(
    processor: Any, conversations: Sequence[Conversation], device: torch.device, max_tokens: int | None
) -> Iterator[dict[str, Tensor]]:
    """Each conversation as a batch of one, with its answers as labels."""
    collator = Collator(processor.tokenizer.pad_token_id or 0)
    for conversation in conversations:
        batch = collator([encode(conversation, processor, max_tokens=max_tokens)])
        yield {name: tensor.to(device) for name, tensor in batch.items()}


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device
