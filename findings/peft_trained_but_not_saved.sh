#!/usr/bin/env bash
# A projector that is unfrozen after get_peft_model is trained, and left out of what save_pretrained writes.
# Seen: 2026-11-28, Python 3.11, CPU, torch 2.13.0, transformers 5.23.0, peft 0.21.2.
# Input: LoRA on a LLaVA's language model; requires_grad_(True) on its projector; 20 steps of AdamW; saved and loaded.
# Behaviour: the adapter's file holds LoRA alone, and no warning says that trained parameters are missing. Named in
# modules_to_save, the projector is written.
# Output: tensors of the projector in the file: 0; logits after loading differ by .48
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2
venv/bin/python - <<'PYTHON'
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import LlavaConfig, LlavaForConditionalGeneration


def tiny_llava():
    torch.manual_seed(0)
    text = dict(model_type="llama", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2)
    vision = dict(model_type="clip_vision_model", hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                  num_attention_heads=4, image_size=32, patch_size=8, projection_dim=16)
    return LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=60))


ids, pixels = torch.tensor([[1, *[60] * 16, 5, 6, 7]]), torch.randn(1, 3, 32, 32)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=ids, pixel_values=pixels).logits


model = get_peft_model(tiny_llava(), LoraConfig(target_modules=r".*language_model.*\.(q|v)_proj", r=4))
projector = model.base_model.model.model.multi_modal_projector.requires_grad_(True)
before = projector.linear_2.weight.clone()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
for _ in range(20):
    model(input_ids=ids, pixel_values=pixels, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    model.save_pretrained("adapter")
with safe_open("adapter/adapter_model.safetensors", framework="pt") as file:
    written = [name for name in file.keys() if "projector" in name]
loaded = PeftModel.from_pretrained(tiny_llava(), "adapter")
difference = (logits(loaded) - logits(model)).abs().max().item()
print("tensors of the projector in the file:", len(written), "; warnings:", [str(w.message) for w in told])
print(f"projector moved by {(projector.linear_2.weight - before).abs().max():.3f}; logits differ by {difference:.3f}")
assert not written and difference > 0.1
assert not any("save" in str(w.message) or "projector" in str(w.message) for w in told)
PYTHON
