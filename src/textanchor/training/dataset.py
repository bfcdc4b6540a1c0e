"""The training conversations of a run: read or drawn, checked, and encoded when the trainer asks for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from textanchor.data.conversations import read_conversations
from textanchor.data.items import Conversation, ImageSource, open_image
from textanchor.data.tasks import load_conversations
from textanchor.errors import ConfigError, DataError, ModelError
from textanchor.evaluation.suite import image_hash
from textanchor.files import read_text, sha256_of_file, sha256_of_json
from textanchor.training.config import AdaptConfig
from textanchor.training.sequences import Example, encode
from textanchor.vlm.chat import render_chat
from textanchor.vlm.names import unwrapped

ONE_QUESTION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
"""What every chat template of a vision-language model can write."""


class EncodedConversations(Dataset[Example]):
    """Conversations, each encoded anew when it is asked for, so that memory holds no pixels."""

    def __init__(self, conversations: Sequence[Conversation], processor: Any, *, max_tokens: int | None):
        self.conversations, self.processor, self.max_tokens = conversations, processor, max_tokens

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> Example:
        return encode(self.conversations[index], self.processor, max_tokens=self.max_tokens)


def read_training_data(config: AdaptConfig) -> list[Conversation]:
    """The conversations that the configuration names; DataError where there are none that the trained parts read."""
    data = config.data
    if data.task is not None and data.num_images is not None:
        return load_conversations(data.task, split="train", num_images=data.num_images, seed=config.training.seed)
    assert data.path is not None  # DataConfig takes a task or a path
    conversations = read_conversations(data.path, data.image_folder)
    if not conversations:
        raise DataError(
            f"{data.path}: no conversations to train on; expected at least one row with `conversations` or `messages`"
        )
    parts = config.trained_parts.trained()
    if "language_model" not in parts and not any(c.images for c in conversations):
        raise DataError(
            f"{data.path}: none of its {len(conversations)} conversations shows an image, so training "
            f"{' and '.join(parts) or 'nothing'} alone would learn nothing from them; give rows with images, or train "
            "the language model"
        )
    return conversations


def conversations_hash(conversations: Sequence[Conversation]) -> str:
    """SHA-256 of all turns and of the content of all images (of a file its bytes, of an image in memory its pixels)."""
    known: dict[Path, str] = {}

    def digest(source: ImageSource) -> str:
        if not isinstance(source, Path):
            return image_hash(source)
        if source not in known:
            if not source.is_file():
                open_image(source)  # raises the error that says what to do
            known[source] = sha256_of_file(source)
        return known[source]

    return sha256_of_json(
        [
            [c.id, c.system, [[turn.question, turn.answer] for turn in c.turns], [digest(image) for image in c.images]]
            for c in conversations
        ]
    )


def use_chat_template(processor: Any, file: Path | None) -> None:
    """Give the processor the chat template in `file`, if there is one; it is saved with the output."""
    if file is None:
        return
    try:
        processor.chat_template = read_text(file)
        render_chat(processor, ONE_QUESTION, add_generation_prompt=True, way_out="give a Jinja text file")
    except (DataError, ModelError) as error:
        raise ConfigError(f"data.chat_template: {file}: {error}") from error


def longest_sequence(model: nn.Module) -> int | None:
    """Number of tokens that the language model has positions for, where its configuration says."""
    plain: Any = unwrapped(model)
    return getattr(plain.config.get_text_config(), "max_position_embeddings", None)
