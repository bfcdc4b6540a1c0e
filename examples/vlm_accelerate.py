"""The same in a loop with accelerate: attach after `prepare`, to the optimizer that it gives."""

import torch
from accelerate import Accelerator

import textanchor as ta
from textanchor.data.tasks import load_conversations
from textanchor.data.texts import load_texts
from textanchor.training.collate import Collator
from textanchor.training.sequences import encode


def tune(model, processor, conversations, texts, *, steps, batch_size=2, learning_rate=1e-3):
    """Train on the conversations in their order, again from the first when they are used up; gives the audit."""
    parts = ta.find_parts(model)
    model.requires_grad_(False)
    for parameter in parts.parameters_of("projector").values():
        parameter.requires_grad_(True)
    anchor = ta.fit_anchor(model, processor, texts, parts=parts, linears=[])
    plan = ta.plan_holds(parts, anchor, ta.FilterConfig(mode="outputs", num_kept=8, hold="exact"))

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    examples = [encode(conversation, processor) for conversation in conversations]
    collate = Collator(processor.tokenizer.pad_token_id or 0)
    loader = torch.utils.data.DataLoader(examples, batch_size, collate_fn=collate)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    handle = ta.attach(plan, optimizer, model)
    model.train()
    step = 0
    while step < steps:
        for batch in loader:
            if step < steps:
                accelerator.backward(model(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
    model.eval()
    return handle.audit()


if __name__ == "__main__":
    digits = load_conversations("digits", split="train", num_images=32)
    print(tune(*ta.load_vlm("embedded"), digits, [row.text for row in load_texts("train")][:40], steps=16))
