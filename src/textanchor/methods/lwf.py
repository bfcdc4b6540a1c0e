"""Learning without Forgetting: on the new task's inputs, the tuned model is kept near the answers of the old one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from textanchor.bounds import require_range
from textanchor.training.method import AbstractMethod, Attachment, Batch, Needs
from textanchor.training.session import Session


@dataclass(frozen=True, kw_only=True)
class LwF(AbstractMethod):
    """loss + strength * mean over answer tokens of -sum_v q_v log p_v, with p and q softmax(logits / temperature).

    q comes from the starting weights and p from the tuned ones, on the same inputs. As in the paper, a softmax with
    temperature T is the normalised T-th root of the probabilities, and no factor T^2 makes up for it. Costs a second
    forward pass.

    Source: Li and Hoiem, "Learning without forgetting", arXiv 1606.09282, equations 2 to 4.
    """

    strength: float = 1.0
    """Weight of the distillation (lambda_o in the paper, 1 there)."""
    temperature: float = 2.0
    """Softens both distributions (T in the paper, 2 there)."""

    def __post_init__(self) -> None:
        for name in ("strength", "temperature"):
            require_range(name, getattr(self, name), above=0)

    @property
    def needs(self) -> Needs:
        """Nothing beside the training data."""
        return "nothing"

    def start(self, session: Session) -> Attachment:
        """The distillation term on every batch."""

        def distillation(batch: Batch) -> Tensor:
            with torch.no_grad(), session.start.in_place():
                q_KV = (batch.forward().float() / self.temperature).softmax(-1)
            log_p_KV = (batch.logits_KV.float() / self.temperature).log_softmax(-1)
            return -self.strength * (q_KV * log_p_KV).sum(-1).mean()

        return Attachment(batch_penalty=distillation)
