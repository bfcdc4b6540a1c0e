"""Plain tuning: the loss on the answers and nothing else."""

from dataclasses import dataclass

from textanchor.training.method import AbstractMethod, Needs


@dataclass(frozen=True, kw_only=True)
class Full(AbstractMethod):
    """Plain tuning of what `parts` says: min over the trained tensors of the mean cross-entropy of the answers' tokens.

    Source: common practice; with the default parts it is LLaVA-1.5's second stage with LoRA (arXiv 2310.03744).
    """

    @property
    def needs(self) -> Needs:
        """Nothing beside the training data."""
        return "nothing"
