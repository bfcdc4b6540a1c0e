"""Write the text that ships with textanchor: answers that SmolLM2-135M-Instruct gave to prompts on many topics.

One row per answer with its prompt; every fifth topic is held out ("test"), as are all topics that were added for
evaluation later. Sampled at temperature 1 under a seed. Prompts that the file already answers keep their answers.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from textanchor.data.json_rows import read_rows
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

TEST_TOPICS = (
    "lighthouses", "a chess club for children", "how soap works", "the circus", "planning a small wedding", "owls",
    "the history of money", "a shy dragon", "clean water", "learning to drive", "caves", "a baker's first day",
    "the planets", "neighbors and noise", "old photographs", "penguins", "voting", "a mysterious key", "wool",
    "elevators",
)  # fmt: skip
"""Never trained on, so that twenty thousand held-out tokens are at hand."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("src/textanchor/data/text/generated.jsonl"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=80)
    args = parser.parse_args()
    model, processor = assemble()
    model.bfloat16()
    processor.tokenizer.padding_side = "left"
    rows = [row for _, row in read_rows(args.out)] if args.out.is_file() else []
    answered = {row["prompt"] for row in rows}
    splits = {topic: "test" if number % 5 == 4 else "train" for number, topic in enumerate(TOPICS)}
    for number, topics in enumerate((splits, dict.fromkeys(TEST_TOPICS, "test"))):
        torch.manual_seed(args.seed + number)
        prompts = {template.format(topic): split for topic, split in topics.items() for template in TEMPLATES}
        if prompts.keys() <= answered:
            continue
        for prompt, answer in _answers(model, processor, list(prompts), args.max_new_tokens, args.batch_size):
            row = {"id": f"generated-{len(rows)}", "split": prompts[prompt], "prompt": prompt, "text": answer.strip()}
            rows.append(row)
            print(f"{len(rows)} answers", flush=True)
    with atomic_file(args.out) as temporary:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _answers(
    model: Any, processor: Any, prompts: Sequence[str], max_new_tokens: int, batch_size: int
) -> Iterator[tuple[str, str]]:
    """Each prompt with a sampled answer."""
    for start in range(0, len(prompts), batch_size):
        chunk = prompts[start : start + batch_size]
        chats = [
            processor.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
            for prompt in chunk
        ]
        inputs = processor.tokenizer(chats, return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=True, top_k=0)
        new_BL = output[:, inputs["input_ids"].shape[1] :]
        yield from zip(chunk, processor.tokenizer.batch_decode(new_BL, skip_special_tokens=True), strict=True)


if __name__ == "__main__":
    main()
