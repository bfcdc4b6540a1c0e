#!/usr/bin/env bash
# ShieldGemma 2, loaded as an image-text-to-text model and saved, comes back without its language model.
# Seen: 2026-11-28, Python 3.11, CPU, torch 2.13.0, transformers 5.23.0.
# Input: a small random model of AutoModelForImageTextToText, saved and loaded again by the same class.
# Behaviour: for a ShieldGemma 2 configuration that class is Gemma3ForConditionalGeneration, and names are translated
# for another one when it is saved: every tensor of the language model is missing afterwards and therefore random, with
# a warning and no error. A Gemma 3 configuration and ShieldGemma2ForImageClassification come back whole.
# Output: 29 tensors missing for ShieldGemma 2 as image-text-to-text, 0 for Gemma 3 and for the classifier
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0
venv/bin/python - <<'PYTHON'
import torch
from transformers import (AutoModelForImageTextToText, Gemma3Config, Gemma3TextConfig, ShieldGemma2Config,
                          ShieldGemma2ForImageClassification, SiglipVisionConfig)

parts = dict(
    vision_config=SiglipVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                                     image_size=32, patch_size=8),
    text_config=Gemma3TextConfig(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                 num_attention_heads=4, num_key_value_heads=2, head_dim=8),
    mm_tokens_per_image=4)


def made_again(model):
    """Tensors that are missing, and those of the saved model that are another one afterwards."""
    model.save_pretrained("saved")
    again, report = type(model).from_pretrained("saved", output_loading_info=True)
    loaded = again.state_dict()
    return len(report["missing_keys"]), sum(not torch.equal(x, loaded[name]) for name, x in model.state_dict().items())


torch.manual_seed(0)
models = {
    "ShieldGemma 2": AutoModelForImageTextToText.from_config(ShieldGemma2Config(**parts)),
    "Gemma 3": AutoModelForImageTextToText.from_config(Gemma3Config(**parts)),
    "classifier": ShieldGemma2ForImageClassification(ShieldGemma2Config(**parts)),
}
found = {name: made_again(model) for name, model in models.items()}
for name, (missing, changed) in found.items():
    print(f"{name} ({type(models[name]).__name__}): {missing} tensors missing, {changed} others than saved")
assert type(models["ShieldGemma 2"]) is type(models["Gemma 3"])
assert found["ShieldGemma 2"][0] == 29 and found["ShieldGemma 2"][1] > 0
assert found["Gemma 3"] == found["classifier"] == (0, 0)
PYTHON
