"""The Fisher information of a model's weights, in full for each weight (diagonal) or for each linear by its two sides
(K-FAC), with labels drawn from the model itself.

Notable:
- labels drawn from the model make this the Fisher, not the "empirical" one of the given labels; what is drawn at one
  position is independent of the others, so the squared gradient of a sequence's sum is an unbiased sum over positions;
- everything is per label, so that it does not depend on how many labels there are;
- where LoRA makes the update the weight is that of its base layer: its gradient at B = 0 is the merged weight's.

Shape legend: K labels, V vocabulary, N tokens, O outputs and I inputs of a linear (with 1 for its bias: E = I + 1).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LogLikelihood = Callable[[Mapping[str, Tensor]], tuple[Tensor, int]]
"""From a batch, the log-likelihood of labels drawn from the model, summed over them, and their number."""


def drawn_log_likelihood(logits_KV: Tensor, generator: torch.Generator) -> Tensor:
    """Log-likelihood of one label for each row, drawn from the row's own distribution, summed."""
    logits_KV = logits_KV.float()
    with torch.no_grad():
        drawn_K = torch.multinomial(logits_KV.softmax(-1).cpu(), 1, generator=generator)[:, 0].to(logits_KV.device)
    return -F.cross_entropy(logits_KV, drawn_K, reduction="sum")


def diagonal_fisher(
    weights: Mapping[str, nn.Parameter], batches: Iterable[Mapping[str, Tensor]], log_likelihood: LogLikelihood
) -> dict[str, Tensor]:
    """E[(d log p / d w)^2] for each weight, by name, from batches of one sequence.

    Source: Kirkpatrick et al., arXiv 1612.00796.
    """
    sums, num_labels = {name: torch.zeros_like(weight) for name, weight in weights.items()}, 0
    with _with_gradients(list(weights.values())):
        for batch in batches:
            total, count = log_likelihood(batch)
            gradients = _gradients(total, list(weights.values()))
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    sums[name] += gradient.square()
            num_labels += count
    return {name: total / max(num_labels, 1) for name, total in sums.items()}


def _gradients(total: Tensor, of: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """None where the total does not depend on a tensor, as a text without an image on no weight of the projector."""
    return torch.autograd.grad(total, of, allow_unused=True) if total.requires_grad else [None] * len(of)


@dataclass(frozen=True)
class KroneckerFactors:
    """Of one linear: the Fisher of [W b] is about outputs_OO (x) inputs_EE."""

    inputs_EE: Tensor
    """Mean over tokens of [x; 1] [x; 1]^T (of x x^T, without the 1, where the linear has no bias)."""
    outputs_OO: Tensor
    """Sum over tokens of g g^T per label, g being d log p / d output."""


def kronecker_fisher(
    linears: Mapping[str, nn.Linear], batches: Iterable[Mapping[str, Tensor]], log_likelihood: LogLikelihood
) -> dict[str, KroneckerFactors]:
    """Both factors of each linear, by name; of a linear that no batch reaches they are zero.

    Source: Martens and Grosse, arXiv 1503.05671; with weights that all tokens share, the "expand" form of Eschenhagen
    et al., arXiv 2311.00636.
    """
    gathered = {name: _Gathered(linear) for name, linear in linears.items()}
    num_labels = 0
    with _with_gradients([linear.weight for linear in linears.values()]), _hooked(gathered):
        for batch in batches:
            total, count = log_likelihood(batch)
            outputs = [output for gather in gathered.values() for output in gather.outputs]
            gradients = iter(_gradients(total, outputs))
            for gather in gathered.values():
                gather.take(gradients)
            num_labels += count
    return {name: gather.factors(num_labels) for name, gather in gathered.items()}


class _Gathered:
    """Running sums of one linear, and the outputs of the batch at hand."""

    def __init__(self, linear: nn.Linear):
        width = linear.in_features + (linear.bias is not None)
        self.linear, self.num_tokens = linear, 0
        self.inputs_EE = linear.weight.new_zeros(width, width)
        self.outputs_OO = linear.weight.new_zeros(linear.out_features, linear.out_features)
        self.outputs: list[Tensor] = []

    @torch.no_grad()
    def add_inputs(self, states: Tensor) -> None:
        x_NE = states.detach().flatten(0, -2).to(self.inputs_EE)
        if self.linear.bias is not None:
            x_NE = torch.cat([x_NE, x_NE.new_ones(len(x_NE), 1)], dim=1)
        self.inputs_EE += x_NE.T @ x_NE
        self.num_tokens += len(x_NE)

    def take(self, gradients: Iterator[Tensor | None]) -> None:
        for _ in self.outputs:
            gradient = next(gradients)
            if gradient is not None:
                g_NO = gradient.flatten(0, -2).to(self.outputs_OO)
                self.outputs_OO += g_NO.T @ g_NO
        self.outputs = []

    def factors(self, num_labels: int) -> KroneckerFactors:
        return KroneckerFactors(self.inputs_EE / max(self.num_tokens, 1), self.outputs_OO / max(num_labels, 1))


@contextmanager
def _hooked(gathered: Mapping[str, _Gathered]) -> Iterator[None]:
    def hook(gather: _Gathered) -> Callable[..., None]:
        def see(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            gather.add_inputs(args[0])
            gather.outputs.append(output)

        return see

    handles = [gather.linear.register_forward_hook(hook(gather)) for gather in gathered.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _with_gradients(weights: Sequence[Tensor]) -> Iterator[None]:
    """Weights that take gradients within, and afterwards only if they did before."""
    before = [(weight, weight.requires_grad) for weight in weights]
    for weight, _ in before:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight, required in before:
            weight.requires_grad_(required)
