"""The loss of a step: only label logits are computed, and it is the loss of the whole batch however it is cut."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from helpers.tiny_families import TINY
from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_models import tiny_inputs, tiny_vlm
from helpers.tiny_runs import mixed_conversations
from textanchor.training.collate import Collator
from textanchor.training.sequences import IGNORED, encode
from textanchor.training.trainer import label_logits
from textanchor.vlm.logits import takes_logits_to_keep

WITHOUT = {"blip-2", "blip_2", "instructblip"}
"""Families whose forward pass cannot leave out logits."""


def labels_for(ids_BL: torch.Tensor) -> torch.Tensor:
    labels_BL = ids_BL.clone()
    labels_BL[:, :-3] = IGNORED
    labels_BL[:, -2] = IGNORED
    return labels_BL


@pytest.mark.parametrize("family", sorted(TINY.keys() - {"florence2"}))  # an encoder-decoder: adapt refuses it
def test_logits_at_labels_are_those_of_the_full_pass(family: str) -> None:
    model, inputs = tiny_vlm(family), tiny_inputs(family)
    labels_BL = labels_for(inputs["input_ids"])
    assert takes_logits_to_keep(model) == (family not in WITHOUT)
    with torch.no_grad():
        full_KV = label_logits(model, inputs, labels_BL, only=False)
        assert len(full_KV) == 2
        if takes_logits_to_keep(model):
            assert torch.allclose(label_logits(model, inputs, labels_BL), full_KV, atol=1e-6)


def test_the_loss_is_transformers_own() -> None:
    model, processor = tiny_llava_with_processor()
    batch: dict[str, Any] = Collator(pad_token_id=0)([encode(c, processor) for c in mixed_conversations()])
    with torch.no_grad():
        expected = model(**batch).loss
        labels_BL = batch.pop("labels")
        logits_KV = label_logits(model, batch, labels_BL)
    targets_K = labels_BL[:, 1:][labels_BL[:, 1:] != IGNORED]
    assert F.cross_entropy(logits_KV, targets_K).item() == pytest.approx(expected.item(), abs=1e-6)
