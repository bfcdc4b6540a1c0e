#!/usr/bin/env bash
# One adapter of an older stack, two readers of the new one: PEFT's ends in a KeyError, Transformers' loads it exactly.
# Seen: 2026-11-28, Python 3.11, CPU, torch 2.13.0, numpy 2.4.6; written by transformers 4.51.3 and peft 0.15.2, read by
# transformers 5.23.0 and peft 0.21.2.
# Input: LoRA on a LLaVA's language model, its projector in modules_to_save.
# Behaviour: since Transformers 4.52 LLaVA's modules have other paths (model.language_model.layers in place of
# language_model.model.layers). PeftModel.from_pretrained maps the old names of LoRA and looks the projector up by its
# new name alone, so it raises; the same adapter without modules_to_save loads. model.load_adapter maps both.
# Output: PeftModel.from_pretrained: KeyError; load_adapter: logits differ from the old stack's by less than 1e-6
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 numpy==2.4.6 transformers==4.51.3 peft==0.15.2
venv/bin/python - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlavaConfig, LlavaForConditionalGeneration

torch.manual_seed(0)
text = dict(model_type="llama", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2)
vision = dict(model_type="clip_vision_model", hidden_size=24, intermediate_size=32, num_hidden_layers=2,
              num_attention_heads=4, image_size=32, patch_size=8, projection_dim=16)
model = LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=60))
model.save_pretrained("base")
for name, saved in (("lora", None), ("lora_and_projector", ["multi_modal_projector"])):
    base = LlavaForConditionalGeneration.from_pretrained("base")
    lora = LoraConfig(target_modules=r".*language_model.*\.(q|v)_proj", init_lora_weights=False, modules_to_save=saved)
    adapted = get_peft_model(base, lora).eval()
    adapted.save_pretrained(name)
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        torch.save(adapted(input_ids=ids).logits, f"{name}.pt")
PYTHON
venv/bin/pip install -q transformers==5.23.0 peft==0.21.2
venv/bin/python - <<'PYTHON'
import torch
from peft import PeftModel
from transformers import LlavaForConditionalGeneration


def difference(model, name):
    with torch.no_grad():
        return (model.eval()(input_ids=torch.tensor([[1, 5, 6, 7]])).logits - torch.load(f"{name}.pt")).abs().max().item()


def base():
    return LlavaForConditionalGeneration.from_pretrained("base")


of_lora = difference(PeftModel.from_pretrained(base(), "lora"), "lora")
try:
    PeftModel.from_pretrained(base(), "lora_and_projector")
    raised = "nothing"
except KeyError as error:
    raised = f"KeyError {error}"
other = base()
other.load_adapter("lora_and_projector")
of_other = difference(other, "lora_and_projector")
print(f"without the projector: differs by {of_lora:.1e}; with it PEFT raises {raised}; load_adapter: {of_other:.1e}")
assert of_lora < 1e-6 and of_other < 1e-6
assert "multi_modal_projector" in raised
PYTHON
