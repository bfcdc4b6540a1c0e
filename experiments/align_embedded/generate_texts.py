"""Write the text that ships with textanchor: answers that SmolLM2-135M-Instruct gave to prompts on many topics.

One row per answer with its prompt; every fifth topic is held out ("test"). Sampled at temperature 1 under a seed.
"""

import argparse
import json
from pathlib import Path

import torch

from textanchor.files import atomic_file
from textanchor.vlm.embedded import assemble

TEMPLATES = (
    "Write a short paragraph about {}.",
    "Explain {} to a child.",
    "Tell me a short story about {}.",
    "Give three practical tips about {}.",
)
TOPICS = (
    "the ocean", "learning to cook", "trains", "the history of paper", "a lost dog", "how rain forms", "saving money",
    "chess", "a quiet village", "the human heart", "growing tomatoes", "friendship", "computers", "a long journey",
    "the moon", "writing letters", "bridges", "music lessons", "a brave sailor", "sleep", "bees", "democracy",
    "winter mornings", "mathematics", "a broken clock", "healthy breakfasts", "volcanoes", "public libraries",
    "an old carpenter", "running a small shop", "electricity", "forests", "a surprise party", "learning a language",
    "whales", "the invention of the telephone", "gardening in small spaces", "a job interview", "dinosaurs", "bread",
    "the desert", "city buses", "a magic lamp", "swimming", "how glass is made", "teaching", "a mountain hut",
    "recycling", "the Roman Empire", "birthdays", "robots", "the immune system", "a noisy neighbor", "photography",
    "rivers", "time management", "an honest thief", "soccer", "the alphabet", "gravity", "a rainy holiday", "museums",
    "coffee", "climate", "a farmer and a fox", "first aid", "airplanes", "poetry", "the stock market", "camping",
    "a forgotten song", "bicycles", "the brain", "justice", "painting a room", "stars", "a letter from home", "tea",
    "evolution", "markets", "a snow storm", "drawing", "the speed of light", "parents", "islands", "hospitals",
    "a clever crow", "job safety", "wind power", "the printing press", "patience", "horses", "an empty theater",
    "statistics", "sewing", "the dictionary", "a train station at night", "cheese", "maps", "kindness",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("src/textanchor/data/text/generated.jsonl"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=80)
    args = parser.parse_args()
    model, processor = assemble()
    model, tokenizer = model.bfloat16(), processor.tokenizer
    tokenizer.padding_side = "left"
    torch.manual_seed(args.seed)
    prompts = [(topic, template.format(topic)) for topic in TOPICS for template in TEMPLATES]
    rows = []
    for start in range(0, len(prompts), args.batch_size):
        chunk = prompts[start : start + args.batch_size]
        chats = [
            processor.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
            for _, prompt in chunk
        ]
        inputs = tokenizer(chats, return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=True, top_k=0)
        answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for (topic, prompt), answer in zip(chunk, answers, strict=True):
            split = "test" if TOPICS.index(topic) % 5 == 4 else "train"
            rows.append({"id": f"generated-{len(rows)}", "split": split, "prompt": prompt, "text": answer.strip()})
        print(f"{len(rows)}/{len(prompts)} answers", flush=True)
    with atomic_file(args.out) as temporary:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
