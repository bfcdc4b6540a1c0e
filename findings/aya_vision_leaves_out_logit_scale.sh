#!/usr/bin/env bash
# Aya Vision and Cohere2 Vision give logits 16 times as large as the language model that they hold.
# Seen: 2026-11-28, Python 3.11, CPU, torch 2.13.0, transformers 5.23.0.
# Input: one text without an image, to the vision-language model and to Cohere2ForCausalLM with the same weights.
# Behaviour: the causal model multiplies its logits by logit_scale (.0625); the vision-language model does not. Greedy
# answers are equal; temperatures, log-likelihoods and perplexities are not. (Random weights: which of the two is meant
# for the published ones is not said here.)
# Output: causal / vision-language logits .0625 for both; greedy answers equal
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0
venv/bin/python - <<'PYTHON'
import torch
from transformers import (AutoModelForImageTextToText, AyaVisionConfig, Cohere2Config, Cohere2ForCausalLM,
                          Cohere2VisionConfig)

vision = dict(model_type="siglip_vision_model", hidden_size=24, intermediate_size=32, num_hidden_layers=1,
              num_attention_heads=2, image_size=32, patch_size=8, vision_use_head=False)
text = Cohere2Config(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, sliding_window=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                     layer_types=["sliding_attention", "full_attention"])
ids = torch.arange(3, 12)[None]
for family in (AyaVisionConfig, Cohere2VisionConfig):
    torch.manual_seed(0)
    config = family(vision_config=vision, text_config=text, downsample_factor=2, alignment_intermediate_size=48)
    whole = AutoModelForImageTextToText.from_config(config).eval()
    causal = Cohere2ForCausalLM(text).eval()
    causal.model.load_state_dict(whole.model.language_model.state_dict())
    causal.lm_head.load_state_dict(whole.lm_head.state_dict())
    with torch.no_grad():
        of_whole, of_causal = (model(input_ids=ids).logits.double() for model in (whole, causal))
    ratio = (of_causal.norm() / of_whole.norm()).item()
    print(f"{type(whole).__name__}: logit_scale {text.logit_scale}, causal / vision-language logits {ratio:.4f}")
    torch.testing.assert_close(of_causal, of_whole * text.logit_scale, rtol=1e-4, atol=1e-7)
    assert text.logit_scale == 0.0625 and torch.equal(of_causal.argmax(-1), of_whole.argmax(-1))
PYTHON
