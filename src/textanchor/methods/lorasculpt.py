"""LoRASculpt's regulariser: the update is penalised most where the pretrained weight is large."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from textanchor.bounds import require_range
from textanchor.errors import ConfigError
from textanchor.training.config import PartName
from textanchor.training.method import AbstractMethod, Attachment, Needs
from textanchor.training.session import Session
from textanchor.training.updates import adapter_update
from textanchor.vlm.names import base_modules, base_parameters, peft_layers

SMALLEST = 1e-15


@dataclass(frozen=True, kw_only=True)
class LoRASculpt(AbstractMethod):
    """loss + alpha * mean_l ||M_l o Delta_l||_F over the language model's linears + beta * the same of the projector's.

    M = tanh(omega * |1 / log(|W0| / ||W0||_F)|), elementwise, so that it is near 1 at the largest weights. Delta is the
    merged update of LoRA (their code leaves out its factor alpha / rank), or W - W0 where a linear is trained in full.
    Each part has a mean and a strength of its own, over all its trained linears; their code takes one mean over the
    attention's q, k and v and the projector together, so that the projector's few linears hardly count.
    Without their sparse masks on A and B: this is the conflict mitigation regulariser alone.

    Source: Liang et al., arXiv 2503.16843, and LiangJian24/LoRASculpt, llava/train/LoRASculpt_Trainer.py.
    """

    language_model_strength: float = 1e-3
    """alpha: weight of the penalty on the language model; 0 leaves it free."""
    projector_strength: float = 1e-3
    """beta: weight of the penalty on the projector; 0 leaves it free."""
    omega: float = 1.0
    """Sharpness of the mask."""

    def __post_init__(self) -> None:
        for name in ("language_model_strength", "projector_strength"):
            require_range(name, getattr(self, name), least=0)
        if self.language_model_strength == self.projector_strength == 0:
            raise ConfigError("both strengths are 0, so nothing is penalised; use method full")
        require_range("omega", self.omega, above=0)

    @property
    def needs(self) -> Needs:
        """Nothing beside the training data."""
        return "nothing"

    def start(self, session: Session) -> Attachment:
        """The penalty on every trained linear of both parts."""
        given = (
            (self.language_model_strength, self._terms(session, "language_model")),
            (self.projector_strength, self._terms(session, "projector")),
        )
        held = [(strength, terms) for strength, terms in given if strength > 0 and terms]
        if not held:
            raise ConfigError("method lorasculpt penalises no linear: those with a strength above 0 are not trained")

        def penalty() -> Tensor:
            means = (strength * torch.stack([term() for term in terms]).mean() for strength, terms in held)
            return torch.stack(list(means)).sum()

        return Attachment(penalty=penalty)

    def _terms(self, session: Session, part: PartName) -> list[Callable[[], Tensor]]:
        """||M o Delta||_F of each linear of the part that is trained."""
        linears = session.parts.projector_linears() if part == "projector" else session.parts.text_linears()
        layers, weights = peft_layers(session.model), base_parameters(session.model)

        def term(name: str) -> Callable[[], Tensor]:
            start_OI = session.start.full.get(f"{name}.weight", weights[f"{name}.weight"]).detach()
            mask_OI = self._mask(start_OI)
            if name in layers:
                return lambda: torch.linalg.vector_norm(mask_OI * adapter_update(layers[name]))
            weight_OI = base_modules(session.model)[name].get_parameter("weight")
            return lambda: torch.linalg.vector_norm(mask_OI * (weight_OI - start_OI))

        return [term(name) for name in linears if name in layers or f"{name}.weight" in session.start.full]

    def _mask(self, weight_OI: Tensor) -> Tensor:
        relative_OI = weight_OI.abs() / torch.linalg.vector_norm(weight_OI)
        return torch.tanh(self.omega * (1 / torch.log(relative_OI + SMALLEST)).abs())
