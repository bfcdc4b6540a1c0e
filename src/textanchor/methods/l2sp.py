"""L2-SP: the squared distance to the starting point joins the loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from textanchor.bounds import require_range
from textanchor.training.method import AbstractMethod, Attachment, Needs
from textanchor.training.session import Session
from textanchor.training.updates import lora_factors
from textanchor.vlm.names import base_parameters, peft_layers


@dataclass(frozen=True, kw_only=True)
class L2SP(AbstractMethod):
    """loss + strength / 2 * ||theta - theta0||^2 over all trained tensors; theta0 are the weights before the run.

    Where LoRA makes the update, theta is the merged weight: ||s B A||_F^2 = s^2 tr(B^T B A A^T). The penalty is part of
    the loss and so passes through the optimizer, as in the paper; it is not a decoupled decay.

    Source: Li, Grandvalet, Davoine, "Explicit inductive bias for transfer learning with convolutional networks",
    arXiv 1802.01483, without their second term, which is for newly added layers: none is new here.
    """

    strength: float = 0.01
    """Weight of the penalty (alpha in the paper)."""

    def __post_init__(self) -> None:
        require_range("strength", self.strength, above=0, why="without it, use method full")

    @property
    def needs(self) -> Needs:
        """Nothing beside the training data."""
        return "nothing"

    def start(self, session: Session) -> Attachment:
        """The penalty on what `session` trains, from the weights that it has now."""
        parameters = base_parameters(session.parts.model)
        pairs = [(parameters[name], start) for name, start in session.start.full.items()]
        layers = list(peft_layers(session.parts.model).values())

        def penalty() -> Tensor:
            terms = [(now - start).square().sum() for now, start in pairs]
            for layer in layers:
                a_RI, b_OR, scaling = lora_factors(layer)
                terms.append(scaling**2 * ((b_OR.T @ b_OR) * (a_RI @ a_RI.T)).sum())
            return self.strength / 2 * torch.stack(terms).sum()

        return Attachment(penalty=penalty)
