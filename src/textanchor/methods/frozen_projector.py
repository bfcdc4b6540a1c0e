"""Frozen projector: only the language model is tuned, so what it is shown of an image stays as it was."""

from dataclasses import dataclass

from textanchor.errors import ConfigError
from textanchor.training.config import PartConfig, PartsConfig
from textanchor.training.method import AbstractMethod, Needs


@dataclass(frozen=True, kw_only=True)
class FrozenProjector(AbstractMethod):
    """Plain tuning with W = W0 on the projector: a LoRA on the language model where `parts` does not say otherwise.

    Source: common practice; the default of ms-swift (`freeze_aligner`).
    """

    @property
    def needs(self) -> Needs:
        """Nothing beside the training data."""
        return "nothing"

    def default_parts(self) -> PartsConfig:
        """LoRA on the language model alone."""
        return PartsConfig(projector=PartConfig(train="frozen"))

    def check_parts(self, parts: PartsConfig) -> None:
        """Raise ConfigError where the projector is trained."""
        if parts.projector.train != "frozen":
            raise ConfigError(
                f"parts.projector.train is {parts.projector.train}, but method frozen_projector keeps the projector; "
                "set it to frozen, or use method full"
            )
