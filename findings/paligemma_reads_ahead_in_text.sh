#!/usr/bin/env bash
# PaliGemma scores text with the next words in sight, by one attention implementation and not by the other.
# Seen: 2026-11-28, Python 3.11, CPU, torch 2.13.0, transformers 5.23.0.
# Input: all 512 continuations of three tokens from a vocabulary of 8, after <bos>; input_ids and attention_mask only.
# Behaviour: a causal model's probabilities of all continuations sum to 1. With sdpa (the default), text without
# token_type_ids is read in both directions; with eager it is causal. token_type_ids of 1 make both causal, of 0 neither.
# So log-likelihoods of text (lm-eval, perplexity) are wrong unless every token is marked as an answer's.
# Output: sdpa .536, eager 1.000; token_type_ids 0: .536 and .536; token_type_ids 1: 1.000 and 1.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0
venv/bin/python - <<'PYTHON'
import itertools

import torch
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

VOCABULARY = 8
rows = torch.tensor([[1, *rest] for rest in itertools.product(range(VOCABULARY), repeat=3)])


def total_probability(attention, **inputs):
    torch.manual_seed(0)
    text = dict(model_type="gemma", vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    vision = dict(model_type="siglip_vision_model", hidden_size=24, intermediate_size=32, num_hidden_layers=1,
                  num_attention_heads=2, image_size=32, patch_size=8, vision_use_head=False)
    config = PaliGemmaConfig(vision_config=vision, text_config=text, projection_dim=32, hidden_size=32,
                             image_token_index=7)
    model = PaliGemmaForConditionalGeneration._from_config(config, attn_implementation=attention).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.5)  # so large that what is read matters
    with torch.no_grad():
        log_p = model(input_ids=rows, attention_mask=torch.ones_like(rows), **inputs).logits.double().log_softmax(-1)
    return log_p[:, :-1].gather(-1, rows[:, 1:, None]).sum((1, 2)).exp().sum().item()


for types in (None, 0, 1):
    inputs = {} if types is None else {"token_type_ids": torch.full_like(rows, types)}
    sdpa, eager = (total_probability(attention, **inputs) for attention in ("sdpa", "eager"))
    print(f"token_type_ids {types}: sdpa {sdpa:.3f}, eager {eager:.3f}")
    assert (abs(sdpa - 1) < 1e-4) == (types == 1)
    assert (abs(eager - 1) < 1e-4) == (types != 0)
PYTHON
