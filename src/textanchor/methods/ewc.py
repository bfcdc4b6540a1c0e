"""Elastic weight consolidation: the distance to the start, weighted by what the model's own predictions hang on."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from textanchor.bounds import require_range
from textanchor.data.texts import read_texts
from textanchor.errors import ConfigError
from textanchor.training.config import PartsConfig
from textanchor.training.dataset import longest_sequence
from textanchor.training.fisher import (
    KroneckerFactors,
    LogLikelihood,
    diagonal_fisher,
    drawn_log_likelihood,
    kronecker_fisher,
)
from textanchor.training.method import AbstractMethod, Attachment, Needs
from textanchor.training.reference import OldData, conversation_batches, device_of, text_batches
from textanchor.training.session import Session
from textanchor.training.trainer import label_logits
from textanchor.training.updates import adapter_update, lora_factors
from textanchor.vlm.logits import takes_logits_to_keep
from textanchor.vlm.modes import evaluating
from textanchor.vlm.names import base_modules, base_parameters, peft_layers


@dataclass(frozen=True, kw_only=True)
class EWC(AbstractMethod):
    """loss + strength / 2 * sum over trained weights of Delta^T F Delta, Delta = W - W0, F the Fisher at W0.

    fisher: diagonal takes F = diag(E[g^2]), g being the gradient of the log-likelihood. fisher: kfac takes
    F = G (x) A for each linear, with A = E[x x^T] of its inputs (and of [x; 1] where its bias trains too) and
    G = E[g g^T] of the gradients at its outputs, so that the term is tr(G Delta A Delta^T); tensors that are no linears
    get the diagonal. Labels are drawn from the model, so F is the Fisher itself. Delta is the merged update of LoRA.

    F is taken on `texts` (the projector then has none and is free) or on `old` questions with images.

    Source: Kirkpatrick et al., arXiv 1612.00796, equation 3; the Kronecker-factored form is that of Ritter, Botev and
    Barber, arXiv 1805.07810.
    """

    strength: float = 1.0
    """Weight of the penalty (lambda in the paper), with F per label."""
    fisher: Literal["diagonal", "kfac"] = "diagonal"
    """Form of F."""
    texts: Path | None = None
    """Texts for F: a .txt file with one on each line, or JSON rows with `text`; ours where it and old are left out."""
    num_texts: int | None = None
    """Number of texts to take, from the first; all where it is left out."""
    old: OldData | None = None
    """Questions with images and answers for F, in place of texts."""

    def __post_init__(self) -> None:
        require_range("strength", self.strength, above=0, why="without it, use method full")
        if self.old is not None and (self.texts is not None or self.num_texts is not None):
            raise ConfigError("texts and num_texts have no effect beside old; remove them")
        require_range("num_texts", self.num_texts, least=1)

    @property
    def needs(self) -> Needs:
        """Texts, unless old questions are given."""
        return "text" if self.old is None else "old data"

    def check_parts(self, parts: PartsConfig) -> None:
        """Raise ConfigError where texts say nothing of what is trained."""
        if self.old is None and parts.language_model.train == "frozen":
            raise ConfigError(
                "method ewc on texts protects the language model, which parts.language_model.train: frozen does not "
                "train; give it old data, or train the language model"
            )

    def start(self, session: Session) -> Attachment:
        """Gather the Fisher at the starting weights, and penalise."""
        terms: list[Callable[[], Tensor]] = []
        linears = _trained_linears(session) if self.fisher == "kfac" else {}
        weights = {
            name: weight for name, weight in _trained_weights(session).items() if name.rpartition(".")[0] not in linears
        }
        with evaluating(session.model):
            if linears:
                factors = kronecker_fisher(linears, self._batches(session), _log_likelihood(session))
                terms += [_kronecker_term(session, name, entry) for name, entry in factors.items()]
            if weights:
                diagonal = diagonal_fisher(weights, self._batches(session), _log_likelihood(session))
                terms += [_diagonal_term(session, name, fisher) for name, fisher in diagonal.items()]
        return Attachment(penalty=lambda: self.strength / 2 * torch.stack([term() for term in terms]).sum())

    def _batches(self, session: Session) -> Iterable[Mapping[str, Tensor]]:
        device = device_of(session.model)
        if self.old is None:
            return text_batches(session.processor, read_texts(self.texts, self.num_texts), device)
        old = self.old.load(session.config.training.seed)
        return conversation_batches(session.processor, old, device, longest_sequence(session.model))


def _log_likelihood(session: Session) -> LogLikelihood:
    generator = torch.Generator().manual_seed(session.config.training.seed)
    only = takes_logits_to_keep(session.model)

    def drawn(batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits_KV = label_logits(session.model, inputs, batch["labels"], only=only)
        return drawn_log_likelihood(logits_KV, generator), len(logits_KV)

    return drawn


def _trained_weights(session: Session) -> dict[str, nn.Parameter]:
    """Tensors of the plain model that the run changes: those trained in full, and the base weights below LoRA."""
    parameters = base_parameters(session.model)
    names = [*session.start.full, *(f"{layer}.weight" for layer in peft_layers(session.model))]
    return {name: parameters[name] for name in names}


def _trained_linears(session: Session) -> dict[str, nn.Linear]:
    """Linears among them, tied ones excepted: a head that shares the embedding's table is no linear alone."""
    weights, modules = _trained_weights(session), base_modules(session.model)
    layers = {name.rpartition(".")[0] for name in weights if name.endswith(".weight")}
    return {
        name: module
        for name in layers
        if isinstance(module := modules[name], nn.Linear) and module.weight is weights[f"{name}.weight"]
    }


def _kronecker_term(session: Session, layer: str, factors: KroneckerFactors) -> Callable[[], Tensor]:
    adapter = peft_layers(session.model).get(layer)
    if adapter is not None:

        def low_rank() -> Tensor:
            a_RI, b_OR, scaling = lora_factors(adapter)
            inputs_II = factors.inputs_EE[: a_RI.shape[1], : a_RI.shape[1]]
            return scaling**2 * ((b_OR.T @ factors.outputs_OO @ b_OR) * (a_RI @ inputs_II @ a_RI.T)).sum()

        return low_rank
    linear, full = base_modules(session.model)[layer], session.start.full
    assert isinstance(linear, nn.Linear)

    def term() -> Tensor:
        delta_OE = linear.weight - full[f"{layer}.weight"]
        if linear.bias is not None:
            delta_OE = torch.cat([delta_OE, (linear.bias - full[f"{layer}.bias"])[:, None]], dim=1)
        return ((factors.outputs_OO @ delta_OE) * (delta_OE @ factors.inputs_EE)).sum()

    return term


def _diagonal_term(session: Session, name: str, fisher: Tensor) -> Callable[[], Tensor]:
    layer = name.removesuffix(".weight")
    adapter = peft_layers(session.model).get(layer)
    if adapter is not None:
        return lambda: (fisher * adapter_update(adapter).square()).sum()
    weight, start = base_parameters(session.model)[name], session.start.full[name]
    return lambda: (fisher * (weight - start).square()).sum()
