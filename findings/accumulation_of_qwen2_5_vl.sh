#!/usr/bin/env bash
# For Qwen2.5-VL, two accumulated batches of one example make another step than one batch of the two.
# Seen: 2026-11-28, Python 3.11, CPU, torch 2.13.0, transformers 5.23.0, accelerate 1.15.0.
# Input: Trainer with SGD, one step, two texts of 3 and 13 labels.
# Behaviour: the Trainer divides by the labels of the whole step only for models that accept loss arguments; Qwen2.5-VL's
# class says accepts_loss_kwargs = False, so each part of a step is averaged by itself, and a label of a short answer
# weighs more than one of a long answer. Qwen2-VL is right.
# Output: Qwen2.5-VL: model_accepts_loss_kwargs False, steps differ by .54 of their length; Qwen2-VL: True, by 1e-7
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
venv/bin/python - <<'PYTHON'
import torch
from transformers import (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLConfig,
                          Qwen2VLForConditionalGeneration, Trainer, TrainingArguments)

text = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]})
vision = dict(depth=1, hidden_size=32, num_heads=2, patch_size=8)
qwen2 = Qwen2VLConfig(text_config=text, vision_config=vision | dict(embed_dim=32))
qwen2_5 = Qwen2_5_VLConfig(text_config=text, vision_config=vision | dict(out_hidden_size=32, intermediate_size=32))
data = []
for length in (4, 14):
    ids = torch.cat([torch.arange(3, 3 + length), torch.zeros(14 - length, dtype=torch.long)])
    data.append({"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids.masked_fill(ids == 0, -100)})


def step(model_class, config, batch_size, accumulation):
    torch.manual_seed(0)
    model = model_class(config)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
    arguments = TrainingArguments("run", max_steps=1, per_device_train_batch_size=batch_size, optim="sgd", use_cpu=True,
                                  gradient_accumulation_steps=accumulation, learning_rate=1.0, max_grad_norm=0.0,
                                  lr_scheduler_type="constant", save_strategy="no", report_to="none")
    trainer = Trainer(model, arguments, train_dataset=data)
    trainer.train()
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return after - before, trainer.model_accepts_loss_kwargs


for model_class, config, is_right in ((Qwen2VLForConditionalGeneration, qwen2, True),
                                      (Qwen2_5_VLForConditionalGeneration, qwen2_5, False)):
    (one, counts), (accumulated, _) = step(model_class, config, 2, 1), step(model_class, config, 1, 2)
    difference = ((accumulated - one).norm() / one.norm()).item()
    print(f"{model_class.__name__}: model_accepts_loss_kwargs {counts}, steps differ by {difference:.1e}")
    assert counts == is_right and (difference < 1e-5 if is_right else difference > 0.1)
PYTHON
