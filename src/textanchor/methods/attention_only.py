"""Attention projections only: of the language model, the linears of its attention blocks and nothing else."""

from dataclasses import dataclass

from textanchor.errors import ConfigError
from textanchor.training.config import PartConfig, PartsConfig
from textanchor.training.method import AbstractMethod, Needs


@dataclass(frozen=True, kw_only=True)
class AttentionOnly(AbstractMethod):
    """Plain tuning of the query, key, value and output projections; W = W0 elsewhere.

    They are trained in full where `parts` does not say otherwise; train: lora with only: attention is the other form.

    Source: the "SA Proj" arm of arXiv 2510.08564.
    """

    @property
    def needs(self) -> Needs:
        """Nothing beside the training data."""
        return "nothing"

    def default_parts(self) -> PartsConfig:
        """The attention linears of the language model in full."""
        return PartsConfig(
            projector=PartConfig(train="frozen"), language_model=PartConfig(train="full", only="attention")
        )

    def check_parts(self, parts: PartsConfig) -> None:
        """Raise ConfigError where something else is trained."""
        for name, part in parts.trained().items():
            if name != "language_model" or part.only != "attention":
                raise ConfigError(
                    f"parts.{name} trains more than attention projections, but method attention_only trains nothing "
                    "else; set language_model to only: attention and the others to train: frozen"
                )
