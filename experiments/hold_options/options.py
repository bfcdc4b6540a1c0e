"""What three options of a hold change: projected gradients, a capped norm, inner linears frozen or pulled back.

    python experiments/hold_options/options.py --out experiments/hold_options/options.json

A small setting, for the options and not for the method: the two-layer projector of a random LLaVA learns to put the
digits 0 to 4 near the embedding of their class, and is then tuned on the digits 5 to 9 under a hold, with AdamW and
gradients clipped at 1. Scores are cross-entropies over the ten classes (nats) on images of neither training set: `new`
of the digits 5 to 9, `old` of 0 to 4 (before tuning both are in the record). `function leak` is the share of the change
on old images in the text directions of mode outputs; the norm is ||Delta|| / ||W0|| of the last linear.

Shape legend: N images, D width of text space.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from textanchor.holds import Anchor, FilterConfig, attach, plan_holds
from textanchor.holds.penalty import protected_energy
from textanchor.holds.pullback import elementwise_slopes
from textanchor.records import RunRecord, environment
from textanchor.spectral import MomentsStream
from textanchor.vlm.parts import VLMParts, find_parts

FEATURES, WIDTH, VOCAB, NUM_REFERENCES = 64, 96, 2000, 300
LEARNING_RATE, STEPS, CLIP, SEEDS = 2e-3, 150, 1.0, (0, 1, 2)
TEXT = {"mode": "outputs", "kept_fraction": 0.5}
ARMS: dict[str, dict[str, Any] | None] = {
    "no hold": None,
    "inputs": {"mode": "inputs", "kept_fraction": 0.3},
    "inputs, projected gradients": {"mode": "inputs", "kept_fraction": 0.3, "gradients": "projected"},
    "inputs, norm at most 0.3": {"mode": "inputs", "kept_fraction": 0.3, "norm_cap": 0.3},
    "inputs, norm at most 0.1": {"mode": "inputs", "kept_fraction": 0.3, "norm_cap": 0.1},
    "outputs, inner frozen": TEXT,
    "outputs, inner pulled back": TEXT | {"inner": "pullback"},
    "outputs, inner frozen, projected gradients": TEXT | {"gradients": "projected"},
    "outputs, inner pulled back, projected gradients": TEXT | {"inner": "pullback", "gradients": "projected"},
    "coupling, inner frozen": TEXT | {"mode": "coupling"},
    "coupling, inner pulled back": TEXT | {"mode": "coupling", "inner": "pullback"},
}


def random_llava() -> VLMParts:
    """Parts of a random model whose embeddings have a spectrum that falls like text's."""
    vision = {"model_type": "clip_vision_model", "hidden_size": FEATURES, "intermediate_size": 32, "image_size": 8}
    vision |= {"patch_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 32}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    model: Any = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))
    parts = find_parts(model.requires_grad_(False))
    with torch.no_grad():
        scales_D = torch.arange(1, WIDTH + 1) ** -0.5
        model.get_input_embeddings().weight.copy_(torch.randn(VOCAB, WIDTH) * scales_D + 0.3 * scales_D)
        for parameter in parts.parameters_of("projector").values():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return parts


class Digits:
    """Features (N, 64) and classes of the old and the new digits, each cut in training, reference and test."""

    def __init__(self) -> None:
        bunch: Any = load_digits()
        features_ND = torch.tensor(bunch.data, dtype=torch.float32) / 16 - 0.3
        classes_N = torch.tensor(bunch.target)
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}
        for name, chosen_N in (("old", classes_N < 5), ("new", classes_N >= 5)):
            x_ND, y_N = features_ND[chosen_N], classes_N[chosen_N]
            cuts = {"train": slice(0, 400), "reference": slice(400, 400 + NUM_REFERENCES), "test": slice(700, None)}
            self.parts |= {f"{name} {cut}": (x_ND[rows], y_N[rows]) for cut, rows in cuts.items()}


def loss_of(parts: VLMParts, data: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of the classes, by closeness of the visual token to the embeddings of ten tokens."""
    classes_CD = parts.module(parts.input_embedding).get_parameter("weight")[:10]
    tokens_ND = parts.module(parts.projector_output)(data[0])
    return F.cross_entropy(tokens_ND @ F.normalize(classes_CD).T, data[1])


def anchor_of(parts: VLMParts, references_ND: Tensor) -> Anchor:
    """Moments of the embedding, of what enters both linears on reference images, and of the slopes between them."""
    first, last = parts.projector_linears().values()
    names = list(parts.projector_linears())
    activation = parts.module("model.multi_modal_projector.act")
    with torch.no_grad():
        z_NH = first(references_ND)
        states = {f"inputs/{names[0]}": references_ND, f"inputs/{names[1]}": activation(z_NH)}
    assert last.in_features == z_NH.shape[1]
    states["text_embedding"] = parts.module(parts.input_embedding).get_parameter("weight")
    moments = {name: Anchor.from_states(rows).moments["states"] for name, rows in states.items()}
    slopes = MomentsStream(z_NH.shape[1], unit_norm=False)
    slopes_NH = elementwise_slopes(activation, z_NH)
    assert slopes_NH is not None
    slopes.add(slopes_NH)
    return Anchor(moments | {f"slopes/{names[0]}": slopes.moments()})


def tune(loss: Callable[[], Tensor], parameters: list[torch.nn.Parameter], plan: Any = None) -> Any:
    """AdamW for STEPS steps with clipped gradients, held by `plan`."""
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    handle = None if plan is None else attach(plan, optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
    return handle


def measured(arm: dict[str, Any] | None, seed: int) -> dict[str, float]:
    """Scores of one arm, and how much of the change on old images lies in its text directions."""
    torch.manual_seed(seed)
    parts, digits = random_llava(), Digits()
    parameters = list(parts.parameters_of("projector").values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    tune(lambda: loss_of(parts, digits.parts["old train"]), parameters)
    anchor = anchor_of(parts, digits.parts["old reference"][0])
    text_space = plan_holds(parts, anchor, FilterConfig(**TEXT)).linears[0].subspace
    last, images_ND = parts.last_projector_linear()[1], digits.parts["old test"][0]
    with torch.no_grad():
        before_ND, start = parts.module(parts.projector_output)(images_ND).double(), last.weight.detach().clone()
        scores = {f"{name} before": loss_of(parts, digits.parts[f"{name} test"]).item() for name in ("old", "new")}
    plan = None if arm is None else plan_holds(parts, anchor, FilterConfig(**arm))
    if plan is not None:
        plan.freeze()
    handle = tune(lambda: loss_of(parts, digits.parts["new train"]), [p for p in parameters if p.requires_grad], plan)
    if handle is not None:
        handle.audit().require_kept()
    with torch.no_grad():
        change_ND = parts.module(parts.projector_output)(images_ND).double() - before_ND
        scores |= {name: loss_of(parts, digits.parts[f"{name} test"]).item() for name in ("new", "old")}
    leak = protected_energy(change_ND, text_space) / change_ND.square().sum(1).mean()
    return scores | {"function leak": float(leak), "norm": float((last.weight.detach() - start).norm() / start.norm())}


def main() -> None:
    """Every arm under every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    for name, arm in ARMS.items():
        runs = [measured(arm, seed) for seed in SEEDS]
        found[name] = {key: [run[key] for run in runs] for key in runs[0]}
        shown = (f"{key} {fmean(v):.3f} +- {stdev(v):.3f}" for key, v in found[name].items() if "before" not in key)
        print(f"{name:<50} {', '.join(shown)}", flush=True)
    config = {"arms": ARMS, "learning_rate": LEARNING_RATE, "steps": STEPS, "clip": CLIP, "seeds": list(SEEDS)}
    RunRecord(
        name="hold_options", method="app", seed=SEEDS[0], config=config, extra={"arms": found}, **environment()
    ).save(chosen.out)


if __name__ == "__main__":
    main()
