"""Zero-shot: the model as it is, written to the output unchanged."""

from dataclasses import dataclass

from textanchor.errors import ConfigError
from textanchor.training.config import PartConfig, PartsConfig
from textanchor.training.method import AbstractMethod, Needs


@dataclass(frozen=True, kw_only=True)
class ZeroShot(AbstractMethod):
    """W = W0: nothing is trained, so the settings of `training` and the data have no effect but on the record.

    It is there so that the model before tuning goes through the same export, scoring and record as the others.

    Source: common practice.
    """

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return "nothing"

    @property
    def trains(self) -> bool:
        """Not at all."""
        return False

    def default_parts(self) -> PartsConfig:
        """All frozen."""
        frozen = PartConfig(train="frozen")
        return PartsConfig(projector=frozen, language_model=frozen, vision_tower=frozen)

    def check_parts(self, parts: PartsConfig) -> None:
        """Raise ConfigError where something is to be trained."""
        for name, part in parts.trained().items():
            raise ConfigError(f"parts.{name}.train is {part.train}, but method zero_shot trains nothing; remove parts")
