#!/usr/bin/env bash
# LoRA named on gate_proj, up_proj and down_proj of a mixture-of-experts model goes to the routed experts alone.
# Seen: 2026-11-28, Python 3.11, CPU, torch 2.13.0, transformers 5.23.0, peft 0.21.2.
# Input: LoraConfig(target_modules=["gate_proj", "up_proj", "down_proj"]) on a GLM-4.5V-MoE of two layers: a dense one,
# and one with four experts and a shared expert. Dense layer, shared expert, merger and tower have linears of these names.
# Behaviour: target_modules becomes empty and target_parameters names the experts' stacked tensors, so none of those
# linears gets LoRA. No warning says so; two say that a rank_pattern and an alpha_pattern, which nobody gave, match nothing.
# Output: layers with LoRA: experts of layer 1 only; target_modules set()
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2
venv/bin/python - <<'PYTHON'
import warnings

from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Glm4vMoeConfig, Glm4vMoeForConditionalGeneration

NAMED = ("gate_proj", "up_proj", "down_proj")
rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0, "mrope_section": [2, 1, 1]}
text = dict(vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, n_routed_experts=4, n_group=1, topk_group=1,
            num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, rope_parameters=rope)
vision = dict(depth=2, hidden_size=32, intermediate_size=48, num_heads=4, patch_size=8, image_size=32, out_hidden_size=32)
model = Glm4vMoeForConditionalGeneration(Glm4vMoeConfig(text_config=text, vision_config=vision))
named = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.endswith(NAMED)]
print("linears of these names:", *named, sep="\n  ")
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    model = get_peft_model(model, LoraConfig(target_modules=list(NAMED), r=4))
factors = [name for name, _ in model.named_parameters() if "lora_A" in name]
layers = {name.partition(".lora_A")[0].removesuffix(".base_layer") for name in factors}
print("layers with LoRA:", layers)
print("target_modules", model.peft_config["default"].target_modules, [str(w.message) for w in told])
assert layers == {"base_model.model.model.language_model.layers.1.mlp.experts"}
assert sum("layers.0.mlp." in name for name in named) == 3 and sum("shared_experts." in name for name in named) == 3
assert model.peft_config["default"].target_modules == set()
assert not any(name in str(w.message) for w in told for name in (*NAMED[:1], "target_modules", "experts"))
PYTHON
