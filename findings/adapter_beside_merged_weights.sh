#!/usr/bin/env bash
# An adapter that lies beside the weights into which it was merged is applied a second time, without a word.
# Seen: 2026-11-28, Python 3.11, CPU, torch 2.13.0, transformers 5.23.0, peft 0.21.2.
# Input: the adapter saved into a folder, merge_and_unload(), and the merged model saved into the same folder.
# Behaviour: from_pretrained finds adapter_config.json there and adds the adapter to the merged weights.
# Output: merged - adapted about 1e-7; loaded - adapted .05 of .27 (the update counts twice)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2
venv/bin/python - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlavaConfig, LlavaForConditionalGeneration


def tiny_llava():
    torch.manual_seed(0)
    text = dict(model_type="llama", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2)
    vision = dict(model_type="clip_vision_model", hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                  num_attention_heads=4, image_size=32, patch_size=8, projection_dim=16)
    return LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=60))


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(1, 11)[None]).logits


target = r".*language_model.*\.(q|v)_proj"
model = get_peft_model(tiny_llava(), LoraConfig(target_modules=target, r=4, init_lora_weights=False))
adapted = logits(model)
model.save_pretrained("out")
merged = model.merge_and_unload()
merged.save_pretrained("out")
loaded = LlavaForConditionalGeneration.from_pretrained("out")
of_merged, of_loaded = ((logits(m) - adapted).abs().max().item() for m in (merged, loaded))
print(f"merged - adapted {of_merged:.1e}; loaded - adapted {of_loaded:.3f} of {adapted.abs().max():.3f}")
assert of_merged < 1e-6 and of_loaded > 0.01
assert any("lora_A" in name for name, _ in loaded.named_parameters())
PYTHON
