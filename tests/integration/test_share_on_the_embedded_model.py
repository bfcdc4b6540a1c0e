"""hold="share" at its default, on real weights: protected movement beside that of the same run without a hold."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from textanchor.data.items import open_image
from textanchor.data.tasks import load_items
from textanchor.data.texts import load_texts
from textanchor.holds import FilterConfig, attach, fit_anchor, plan_holds
from textanchor.vlm.loading import load_vlm
from textanchor.vlm.parts import find_parts

NUM_STEPS, NUM_ITEMS = 12, 2


@pytest.fixture(scope="module")
def embedded() -> tuple[Any, Any]:
    model, processor = load_vlm("embedded")
    return model.requires_grad_(False), processor


def digits_batches(processor: Any) -> list[tuple[dict[str, Tensor], Tensor]]:
    """For each step digits with a question, and the ids of their names."""
    items = load_items("digits", split="train", num_items=NUM_STEPS * NUM_ITEMS)
    images = [[open_image(item.image)] for item in items if item.image is not None]
    prompt = f"<|im_start|>user\n<image>\n{items[0].question}<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor(text=[prompt] * len(items), images=images, return_tensors="pt")
    answers = torch.tensor([processor.tokenizer(item.answer)["input_ids"][0] for item in items])
    return [
        ({name: tensor[i : i + NUM_ITEMS] for name, tensor in inputs.items()}, answers[i : i + NUM_ITEMS])
        for i in range(0, len(items), NUM_ITEMS)
    ]


@pytest.mark.slow
@pytest.mark.registry
@pytest.mark.parametrize("lr", [1e-4, 3e-4, 1e-3])
@pytest.mark.parametrize(("mode", "amount"), [("outputs", {"num_kept": 64}), ("inputs", {"kept_fraction": 0.1})])
def test_share_cuts_protected_movement_to_a_quarter(
    embedded: tuple[Any, Any], mode: str, amount: dict[str, Any], lr: float
) -> None:
    model, processor = embedded
    images = [
        open_image(item.image) for item in load_items("existence", split="validation", num_items=24) if item.image
    ]
    anchor = fit_anchor(model, processor, [row.text for row in load_texts("train")][:16], images, linears=[])
    parts = find_parts(model)
    start = {name: p.detach().clone() for name, p in parts.parameters_of("projector").items()}
    batches = digits_batches(processor)

    def protected_norms(is_held: bool) -> list[float]:
        for name, parameter in parts.parameters_of("projector").items():
            parameter.requires_grad_(True).data.copy_(start[name])
        plan = plan_holds(parts, anchor, FilterConfig(mode=mode, hold="share", **amount))
        plan.freeze()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
        handle = attach(plan, optimizer) if is_held else None
        for inputs, answers in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(**inputs, logits_to_keep=1).logits[:, -1], answers).backward()
            optimizer.step()
        if handle is not None:
            handle.remove()
        return [row.protected_norm for row in plan.audit().rows]

    for free, held in zip(protected_norms(is_held=False), protected_norms(is_held=True), strict=True):
        assert 0 < held <= 0.25 * free
