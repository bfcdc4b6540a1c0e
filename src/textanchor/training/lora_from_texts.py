"""What methods share that start a LoRA on the language model from texts, taking its start out of the base weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textanchor.bounds import require_range
from textanchor.errors import ConfigError
from textanchor.training.config import PartsConfig
from textanchor.training.method import AbstractMethod, Needs


@dataclass(frozen=True, kw_only=True)
class LoraFromTexts(AbstractMethod):
    """Only for LoRA on the language model: texts say nothing of the projector's inputs."""

    name: ClassVar[str]

    texts: Path | None = None
    """A .txt file with one on each line, or JSON rows with `text`; ours where it is left out."""
    num_texts: int | None = None
    """Number of texts to take, from the first; all where it is left out."""

    def __post_init__(self) -> None:
        require_range("num_texts", self.num_texts, least=1)

    @property
    def needs(self) -> Needs:
        """Texts."""
        return "text"

    @property
    def keeps_base(self) -> bool:
        """The start of LoRA is taken from the base weights."""
        return False

    def check_parts(self, parts: PartsConfig) -> None:
        """Raise ConfigError unless LoRA is on the language model and only there."""
        on = [name for name, part in parts.trained().items() if part.train == "lora"]
        if on != ["language_model"]:
            raise ConfigError(
                f"method {self.name} starts a LoRA on the language model from texts, but train: lora stands at "
                f"{', '.join(f'parts.{name}' for name in on) or 'no part'}; set it for language_model and for no other"
            )
