"""LoRA on projector and language model both: every trained linear gets a low-rank update, nothing is tuned in full."""

from dataclasses import dataclass

from textanchor.errors import ConfigError
from textanchor.training.config import PartConfig, PartsConfig
from textanchor.training.method import AbstractMethod, Needs


@dataclass(frozen=True, kw_only=True)
class Lora(AbstractMethod):
    """W = W0 + (alpha / rank) B A on every trained linear, B starting at 0 and A random.

    Source: LoRA, arXiv 2106.09685; the implementation is PEFT's.
    """

    @property
    def needs(self) -> Needs:
        """Nothing beside the training data."""
        return "nothing"

    def default_parts(self) -> PartsConfig:
        """LoRA on the projector and on the language model."""
        return PartsConfig(projector=PartConfig(train="lora"), language_model=PartConfig(train="lora"))

    def check_parts(self, parts: PartsConfig) -> None:
        """Raise ConfigError where a part is trained in full, because that is another method."""
        for name, part in parts.trained().items():
            if part.train == "full":
                raise ConfigError(
                    f"parts.{name}.train is full, but method lora trains low-rank updates only; use method full"
                )
