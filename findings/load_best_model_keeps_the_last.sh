#!/usr/bin/env bash
# Trainer(load_best_model_at_end=True) ends with the last weights of a LLaVA, not with the best ones.
# Seen: 2026-11-28, Python 3.11, CPU, torch 2.13.0, transformers 5.23.0, accelerate 1.15.0.
# Input: three steps, evaluated and saved at each; the first evaluation is the best (its value is given by a subclass).
# Behaviour: save_pretrained writes LLaVA's tensors under other names than state_dict() has; the Trainer loads the best
# checkpoint's file by the names of state_dict(), not strictly, finds none, and goes on with a logged line.
# Output: best checkpoint-1; weights equal checkpoint-1: False; equal checkpoint-3: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
venv/bin/python - <<'PYTHON'
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, Trainer, TrainingArguments


def tiny_llava():
    torch.manual_seed(0)
    text = dict(model_type="llama", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2)
    vision = dict(model_type="clip_vision_model", hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                  num_attention_heads=4, image_size=32, patch_size=8, projection_dim=16)
    return LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=60))


class FirstIsBest(Trainer):
    def evaluate(self, *args, **kwargs):
        metrics = {"eval_loss": float(self.state.global_step)}
        self.log(metrics)
        return metrics


def equal(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


ids = [torch.tensor([1, 5 + i, 6, 7]) for i in range(6)]
data = [{"input_ids": row, "labels": row} for row in ids]
options = dict(max_steps=3, learning_rate=0.1, save_strategy="steps", eval_strategy="steps", save_steps=1, eval_steps=1)
arguments = TrainingArguments("run", **options, load_best_model_at_end=True, metric_for_best_model="eval_loss",
                              greater_is_better=False, report_to="none", use_cpu=True, per_device_train_batch_size=2)
trainer = FirstIsBest(tiny_llava(), arguments, train_dataset=data, eval_dataset=data)
trainer.train()
first, last = (LlavaForConditionalGeneration.from_pretrained(f"run/checkpoint-{step}") for step in (1, 3))
print("best", trainer.state.best_model_checkpoint)
print("weights equal checkpoint-1:", equal(trainer.model, first), "; equal checkpoint-3:", equal(trainer.model, last))
assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
assert equal(trainer.model, last) and not equal(trainer.model, first)
PYTHON
