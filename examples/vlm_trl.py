"""The same with TRL's SFTTrainer, on its own kind of data set: images, prompt and completion."""

import tempfile

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

import textanchor as ta
from textanchor.data.items import open_image
from textanchor.data.tasks import load_conversations
from textanchor.data.texts import load_texts


def rows_of(conversations):
    """Conversations of one turn as TRL takes them; only the completion is learned."""
    return Dataset.from_list(
        [
            {
                "images": [open_image(image) for image in conversation.images],
                "prompt": [{"role": "user", "content": conversation.turns[0].question}],
                "completion": [{"role": "assistant", "content": conversation.turns[0].answer}],
            }
            for conversation in conversations
        ]
    )


def tune(model, processor, dataset, texts, *, steps, batch_size=2, learning_rate=1e-3, data_collator=None, **options):
    """Train on the rows in their order; `options` are further ones of SFTConfig. Gives the audit."""
    parts = ta.find_parts(model)
    model.requires_grad_(False)
    for parameter in parts.parameters_of("projector").values():
        parameter.requires_grad_(True)
    anchor = ta.fit_anchor(model, processor, texts, parts=parts, linears=[])
    plan = ta.plan_holds(parts, anchor, ta.FilterConfig(mode="outputs", num_kept=8, hold="exact"))
    held = ta.AnchorCallback(plan)

    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            optim="adamw_torch",
            max_grad_norm=0.0,
            max_length=None,  # a cut sequence could lose image tokens
            activation_checkpointing=False,
            bf16=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            **options,
        )
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            processing_class=processor,
            data_collator=data_collator,
            callbacks=[held],
        )
        # the mean is over all answer tokens of a step; of Qwen-VL and GLM-4V the Trainer averages the means of batches
        trainer.model_accepts_loss_kwargs = True
        trainer.train()
    model.eval()
    return held.handle.audit()


if __name__ == "__main__":
    digits = rows_of(load_conversations("digits", split="train", num_images=32))
    print(tune(*ta.load_vlm("embedded"), digits, [row.text for row in load_texts("train")][:40], steps=16))
