"""Both forms of the Fisher information against its closed form, and the penalty of EWC against both."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_sessions import merged_weights, moved, session
from textanchor.methods.ewc import EWC
from textanchor.training.fisher import diagonal_fisher, drawn_log_likelihood, kronecker_fisher
from textanchor.training.method import load_method
from textanchor.training.reference import text_batches
from textanchor.vlm.names import base_modules


def every_label(linear: nn.Linear, states_NI: Tensor) -> Iterator[dict[str, Tensor]]:
    """Each state with each label, weighted by the root of its probability: the mean over draws, without drawing."""
    for x_I in states_NI:
        p_V = linear(x_I).softmax(-1).detach()
        for label in range(len(p_V)):
            yield {"x": x_I, "label": torch.tensor(label), "root": p_V[label].sqrt()}


def softmax_regression() -> tuple[nn.Linear, Tensor, Any]:
    linear, states_NI = nn.Linear(4, 3).double(), torch.randn(5, 4).double()

    def log_likelihood(batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        log_p_V = linear(batch["x"][None])[0].log_softmax(-1)
        return batch["root"] * log_p_V[batch["label"]], int(batch["label"] == 0)

    return linear, states_NI, log_likelihood


def test_the_diagonal_is_that_of_softmax_regression() -> None:
    linear, states_NI, log_likelihood = softmax_regression()
    weights = {"weight": linear.weight, "bias": linear.bias}
    found = diagonal_fisher(weights, every_label(linear, states_NI), log_likelihood)
    p_NV = linear(states_NI).softmax(-1).detach()
    spread_NV = p_NV * (1 - p_NV)
    assert torch.allclose(found["weight"], (spread_NV.T @ states_NI.square()) / 5)
    assert torch.allclose(found["bias"], spread_NV.mean(0))


def test_both_factors_are_those_of_softmax_regression() -> None:
    linear, states_NI, log_likelihood = softmax_regression()
    linear.weight.requires_grad_(False)
    found = kronecker_fisher({"l": linear}, list(every_label(linear, states_NI)), log_likelihood)["l"]
    assert not linear.weight.requires_grad
    with_one_NE = torch.cat([states_NI, torch.ones(5, 1).double()], dim=1)
    assert torch.allclose(found.inputs_EE, with_one_NE.T @ with_one_NE / 5)
    p_NV = linear(states_NI).softmax(-1).detach()
    assert torch.allclose(found.outputs_OO, (p_NV.sum(0).diag() - p_NV.T @ p_NV) / 5)


def test_labels_are_drawn_from_the_model() -> None:
    logits_KV = torch.tensor([0.1, 0.6, 0.3]).log().repeat(20_000, 1).requires_grad_()
    total = drawn_log_likelihood(logits_KV, torch.Generator().manual_seed(0))
    (gradient_KV,) = torch.autograd.grad(total, logits_KV)
    drawn_V = (gradient_KV > 0).float().mean(0)
    assert torch.allclose(drawn_V, torch.tensor([0.1, 0.6, 0.3]), atol=0.02)


TEXTS = ["A star is red.", "Two rings."]


def independent(seed: int, linear: str | None) -> Any:
    """From the plain model, sums over TEXTS in a loop of its own: squared gradients, or one linear's two moments."""
    model, processor = tiny_llava_with_processor()
    generator, num_labels = torch.Generator().manual_seed(seed), 0
    squares = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    inputs: list[Tensor] = []
    grads: list[Tensor] = []
    if linear is not None:
        module = base_modules(model)[linear]

        def see(_: Any, args: Any, output: Tensor) -> None:
            inputs.append(args[0][0])
            output.register_hook(grads.append)

        module.register_forward_hook(see)
    for batch in text_batches(processor, TEXTS, torch.device("cpu")):
        model.zero_grad()
        logits_KV = model(input_ids=batch["input_ids"]).logits[0, :-1]
        drawn_K = torch.multinomial(logits_KV.detach().softmax(-1), 1, generator=generator)[:, 0]
        (-F.cross_entropy(logits_KV, drawn_K, reduction="sum")).backward()
        for name, p in model.named_parameters():
            squares[name] += 0 if p.grad is None else p.grad.square()
        num_labels += len(drawn_K)
    if linear is None:
        return {name: total / num_labels for name, total in squares.items()}
    x_NI, g_NO = torch.cat(inputs), torch.cat([g[0] for g in grads])
    return x_NI.T @ x_NI / len(x_NI), g_NO.T @ g_NO / num_labels


def write_texts(folder: Path) -> Path:
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    return folder / "texts.txt"


@pytest.mark.parametrize("train", ["lora", "full"])
def test_ewc_weighs_the_merged_change_by_the_diagonal(train: str, tmp_path: Path) -> None:
    run = session(tmp_path, parts__language_model={"train": train})
    penalty = EWC(strength=0.6, texts=write_texts(tmp_path)).start(run).penalty
    assert penalty is not None
    assert penalty() == 0
    moved(run, 0.1)
    term = penalty()
    fisher = independent(0, None)
    deltas = merged_weights(run, tiny_llava_with_processor()[0])
    expected = 0.3 * sum(float((fisher[name] * delta.square()).sum()) for name, delta in deltas.items())
    assert isinstance(term, Tensor)
    assert term.item() == pytest.approx(expected, rel=1e-4)
    assert expected > 0


@pytest.mark.parametrize("train", ["lora", "full"])
def test_ewc_weighs_the_merged_change_by_both_factors(train: str, tmp_path: Path) -> None:
    layer = "model.language_model.layers.1.mlp.down_proj"
    only = {"train": train, "learning_rate": 1e-3}
    run = session(tmp_path, parts__projector={"train": "frozen"}, parts__language_model=only)
    penalty = EWC(strength=2.0, fisher="kfac", texts=write_texts(tmp_path)).start(run).penalty
    assert penalty is not None
    moved(run, 0.1, within=layer)
    term = penalty()
    second_II, outputs_OO = independent(0, layer)
    delta_OI = merged_weights(run, tiny_llava_with_processor()[0])[f"{layer}.weight"]
    full_fisher = torch.kron(outputs_OO, second_II)
    expected = delta_OI.flatten() @ full_fisher @ delta_OI.flatten()
    assert isinstance(term, Tensor)
    assert term.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_projector_is_weighed_where_old_data_reaches_it(tmp_path: Path) -> None:
    old = {"tasks": ("existence",), "num_images": 2}
    run = session(tmp_path, parts__language_model={"train": "frozen"})
    for fisher in ("diagonal", "kfac"):
        attachment = load_method({"name": "ewc", "fisher": fisher, "old": old}).start(run)
        assert attachment.penalty is not None
        before = torch.as_tensor(attachment.penalty()).item()
        moved(run, 0.1)
        assert torch.as_tensor(attachment.penalty()).item() > before
