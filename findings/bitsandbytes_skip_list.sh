#!/usr/bin/env bash
# Short names in llm_int8_skip_modules leave the vision tower in 4 bits, and any list at all puts the head into 4 bits.
# Seen: 2026-11-28, Python 3.11, CPU, torch 2.13.0, transformers 5.23.0, accelerate 1.15.0,
# bitsandbytes 0.50.2.
# Input: BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=[...]) on a LLaVA.
# Behaviour: a name counts where a module's whole path begins with it or is it, so "vision_tower" skips nothing of
# model.vision_tower. Without a list the output head is left alone; a list takes the place of that default.
# Output: layers in 4 bits of tower, projector, head: no list 12 2 0; short names 12 2 1; paths 0 0 1; with head 0 0 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 bitsandbytes==0.50.2
venv/bin/python - <<'PYTHON'
import bitsandbytes
import torch
from transformers import BitsAndBytesConfig, LlavaConfig, LlavaForConditionalGeneration


def tiny_llava():
    torch.manual_seed(0)
    text = dict(model_type="llama", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2)
    vision = dict(model_type="clip_vision_model", hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                  num_attention_heads=4, image_size=32, patch_size=8, projection_dim=16)
    return LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=60))


tiny_llava().save_pretrained("model")


def in_4_bits(skipped):
    config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=skipped)
    model = LlavaForConditionalGeneration.from_pretrained("model", quantization_config=config, device_map="cpu")
    names = [name for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    counts = [sum(part in name for name in names) for part in ("vision_tower", "multi_modal_projector", "lm_head")]
    print(skipped, counts)
    return counts


assert in_4_bits(None) == [12, 2, 0]
assert in_4_bits(["vision_tower", "multi_modal_projector"]) == [12, 2, 1]
paths = ["model.vision_tower", "model.multi_modal_projector"]
assert in_4_bits(paths) == [0, 0, 1]
assert in_4_bits([*paths, "lm_head"]) == [0, 0, 0]
PYTHON
