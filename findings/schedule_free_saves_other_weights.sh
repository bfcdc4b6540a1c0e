#!/usr/bin/env bash
# After Trainer.train() with a schedule-free optimizer, the model holds (and save_model writes) the training iterate.
# Seen: 2026-11-28, Python 3.11, CPU, torch 2.13.0, transformers 5.23.0, accelerate 1.15.0, schedulefree 1.4.1.
# Input: optim="schedule_free_adamw", 20 steps, save_model() after train().
# Behaviour: schedule-free methods train at one point and answer for another, the average, which optimizer.eval() puts
# into the weights. The Trainer does not call it at the end: what is saved is not the model that the method promises.
# Output: train_mode True after train(); saved weights differ from those after optimizer.eval()
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 schedulefree==1.4.1
venv/bin/python - <<'PYTHON'
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
data = [{"input_ids": torch.tensor([1, 5 + i, 6, 7]), "labels": torch.tensor([1, 5 + i, 6, 7])} for i in range(8)]
arguments = TrainingArguments("run", max_steps=20, optim="schedule_free_adamw", learning_rate=1e-2, save_strategy="no",
                              lr_scheduler_type="constant", report_to="none", use_cpu=True)
trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=data)
trainer.train()
optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
modes = [group["train_mode"] for group in optimizer.param_groups]
trainer.save_model("saved")
saved = LlamaForCausalLM.from_pretrained("saved").state_dict()
held = {name: value.clone() for name, value in trainer.model.state_dict().items()}
optimizer.eval()
averaged = trainer.model.state_dict()
difference = max((saved[name] - averaged[name]).abs().max().item() for name in averaged)
print("train_mode", modes, f"; saved and averaged weights differ by up to {difference:.4f}")
assert all(modes) and difference > 1e-3
assert all(torch.equal(saved[name], held[name]) for name in held)
PYTHON
