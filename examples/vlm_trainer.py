"""The same with the Hugging Face Trainer: one callback."""

import tempfile

import torch
from transformers import Trainer, TrainingArguments

import textanchor as ta
from textanchor.data.tasks import load_conversations
from textanchor.data.texts import load_texts
from textanchor.training.collate import Collator
from textanchor.training.sequences import encode


def tune(model, processor, conversations, texts, *, steps, batch_size=2, accumulation=1, learning_rate=1e-3):
    """Train on the conversations in their order, again from the first when they are used up; gives the audit."""
    parts = ta.find_parts(model)
    model.requires_grad_(False)
    for parameter in parts.parameters_of("projector").values():
        parameter.requires_grad_(True)
    anchor = ta.fit_anchor(model, processor, texts, parts=parts, linears=[])
    plan = ta.plan_holds(parts, anchor, ta.FilterConfig(mode="outputs", num_kept=8, hold="exact"))
    held = ta.AnchorCallback(plan)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            learning_rate=learning_rate,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            optim="adamw_torch",
            max_grad_norm=0.0,
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=[encode(conversation, processor) for conversation in conversations],
            data_collator=Collator(processor.tokenizer.pad_token_id or 0),
            callbacks=[held],
        )
        # the mean is over all answer tokens of a step; of Qwen-VL and GLM-4V the Trainer averages the means of batches
        trainer.model_accepts_loss_kwargs = True
        trainer.train()
    model.eval()
    return held.handle.audit()


if __name__ == "__main__":
    digits = load_conversations("digits", split="train", num_images=32)
    print(tune(*ta.load_vlm("embedded"), digits, [row.text for row in load_texts("train")][:40], steps=16))
