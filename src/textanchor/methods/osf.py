"""Orthogonal subspace fine-tuning: the large singular directions of every trained weight are frozen."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import OSFConfig
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from textanchor.errors import ConfigError, ModelError
from textanchor.holds.optimizers import stepping_optimizer
from textanchor.training.adapters import AdapterTargets
from textanchor.training.config import PartConfig, PartName, PartsConfig
from textanchor.training.method import AbstractMethod, Attachment, Needs
from textanchor.training.session import Session
from textanchor.training.updates import ADAPTER
from textanchor.vlm.names import base_parameters, peft_layers


@dataclass(frozen=True, kw_only=True)
class OSF(AbstractMethod):
    """W0 = U_h S_h V_h + U_l S_l V_l; the first term, of the largest singular values, is frozen, the second trained.

    project: gradient is PEFT's own: gradients of U_l and V_l are kept orthogonal to U_h and V_h. AdamW rescales them,
    so the update still enters the frozen directions (10 to 30 % of its norm). project: step does it again on the
    factors after each step: U_l - U_h (U_h^T U_l), and the same for V_l. Every linear of a part with train: full is
    tuned so, and all else in it is frozen. Weight decay acts on the three trained factors, as in PEFT.

    Source: Nayak et al., arXiv 2504.07097; the implementation is PEFT's, the projection after the step that of
    Red-Hat-AI-Innovation-Team/mini_trainer (issue 90).
    """

    kept_fraction: float = 0.5
    """Share of each weight's singular directions that is frozen (PEFT's effective_rank as a fraction)."""
    project: Literal["gradient", "step"] = "gradient"
    """Where the frozen directions are taken out: of the gradient alone, or also after each step."""

    def __post_init__(self) -> None:
        if not 0 < self.kept_fraction < 1:
            raise ConfigError(f"kept_fraction must lie between 0 and 1, found {self.kept_fraction}")

    @property
    def needs(self) -> Needs:
        """Nothing beside the training data."""
        return "nothing"

    @property
    def keeps_base(self) -> bool:
        """There is no LoRA."""
        return False

    def default_parts(self) -> PartsConfig:
        """Projector and language model, at the rate of full training."""
        return PartsConfig(projector=PartConfig(train="full"), language_model=PartConfig(train="full"))

    def check_parts(self, parts: PartsConfig) -> None:
        """Raise ConfigError where LoRA is asked for beside it."""
        for name, part in parts.trained().items():
            if part.train == "lora":
                raise ConfigError(
                    f"parts.{name}.train is lora, but method osf trains a part of every weight; set it to full or "
                    "frozen"
                )

    def adapted(self, parts: PartsConfig) -> dict[PartName, PartConfig]:
        """Every trained part."""
        return parts.trained()

    def make_adapter(self, targets: AdapterTargets) -> nn.Module:
        """PEFT's OSF on the linears."""
        weights = base_parameters(targets.parts.model)
        for name in targets.names:
            if int(min(weights[f"{name}.weight"].shape) * self.kept_fraction) < 1:
                raise ModelError(
                    f"{name}: method.kept_fraction {self.kept_fraction} of {min(weights[f'{name}.weight'].shape)} "
                    "singular directions is none; raise it"
                )
        return targets.wrapped(OSFConfig(target_modules=targets.names, effective_rank=self.kept_fraction))

    def start(self, session: Session) -> Attachment:
        """Project after each step where asked to; PEFT's layers do the rest."""
        return Attachment(callbacks=(StepProjection(),) if self.project == "step" else ())


class StepProjection(TrainerCallback):
    """Takes the frozen directions out of PEFT's OSF factors after each step of the optimizer."""

    def __init__(self) -> None:
        self._hook: Any = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Listen to the optimizer."""
        assert model is not None
        layers = list(peft_layers(model).values())

        def after_step(*_: Any) -> None:
            for layer in layers:
                remove_frozen_directions(layer)

        self._hook = stepping_optimizer(optimizer).register_step_post_hook(after_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop."""
        if self._hook is not None:
            self._hook.remove()


@torch.no_grad()
def remove_frozen_directions(layer: Any) -> None:
    """Make U_l orthogonal to U_h and V_l to V_h, in place; (O, R) and (R, I) of one of PEFT's OSF layers."""
    factors = layer.osf_svd_params[ADAPTER]
    u_OR, v_RI = factors["U_low"], factors["V_low"]
    u_OR.copy_(_without(u_OR, layer._osf_U_high, layer._osf_U_low_init[ADAPTER]))
    v_high = {ADAPTER: layer._osf_V_high[ADAPTER].T} if ADAPTER in layer._osf_V_high else {}
    v_RI.copy_(_without(v_RI.T, v_high, layer._osf_V_low_init[ADAPTER].T).T)


def _without(now: Tensor, high: Any, low_at_start: Tensor) -> Tensor:
    """The part of `now` outside the frozen columns; PEFT keeps these only where the others do not span the rest."""
    if ADAPTER in high:
        return now - high[ADAPTER] @ (high[ADAPTER].T @ now)
    return low_at_start @ (low_at_start.T @ now)
