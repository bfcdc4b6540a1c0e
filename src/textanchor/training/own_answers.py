"""What a model itself answers to questions, as conversations to train on."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from textanchor.data.items import Conversation, Item, Turn
from textanchor.evaluation.scoring.generation import generate_answers

MAX_ANSWER_TOKENS = 128


def own_answers(model: nn.Module, processor: Any, items: Sequence[Item]) -> list[Conversation]:
    """Each question with the model's greedy answer of at most 128 tokens; the items' own answers are not looked at."""
    answers = generate_answers(model, processor, items, max_new_tokens=MAX_ANSWER_TOKENS)
    return [
        Conversation(
            id=f"own-{item.id}",
            turns=(*item.history, Turn(question=item.question, answer=answer.strip())),
            images=() if item.image is None else (item.image,),
            system=item.system,
        )
        for item, answer in zip(items, answers, strict=True)
    ]
