"""WiSE-FT: after plain tuning, the weights between the start and the end."""

from dataclasses import dataclass

from textanchor.errors import ConfigError
from textanchor.training.config import PART_NAMES
from textanchor.training.method import AbstractMethod, Attachment, Needs
from textanchor.training.session import Session


@dataclass(frozen=True, kw_only=True)
class WiseFT(AbstractMethod):
    """theta = (1 - alpha) theta0 + alpha theta1, theta1 being the weights after plain tuning.

    Where LoRA makes the update, that is alpha times B. Scores taken during the run (a curve) are those of theta1.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv 2109.01903.
    """

    alpha: float = 0.5
    """Share of the tuned weights, between 0 and 1; 0.5 is what the paper recommends where none can be chosen."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ConfigError(
                f"alpha must lie between 0 and 1, found {self.alpha}; the ends are methods zero_shot and full"
            )

    @property
    def needs(self) -> Needs:
        """Nothing beside the training data."""
        return "nothing"

    def start(self, session: Session) -> Attachment:
        """Interpolate once the last step is done."""
        factors: dict[str, float] = {part: self.alpha for part in (*PART_NAMES, "other")}
        return Attachment(finish=lambda: session.start.scale_updates(factors))
