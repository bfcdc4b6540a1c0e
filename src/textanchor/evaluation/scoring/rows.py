"""Candidate log-likelihoods for any model family: the processor's own inputs, a row for each prompt with an answer.

Candidates that differ in their last token only are read from one row, as are candidates that others begin with.
Shape legend: B rows, K last positions that are read, V vocabulary.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from textanchor.data.items import open_image
from textanchor.errors import ModelError
from textanchor.evaluation.scoring.prompting import EncodedItem, as_taken_by
from textanchor.evaluation.suite import EvaluationOptions
from textanchor.vlm.chat import process
from textanchor.vlm.names import unwrapped
from textanchor.vlm.precision import Format, computing_in

TWO_WAY_FAMILIES = ("florence2", "paligemma")
"""Families that read what they are given in both directions, so that an answer given with its prompt sees itself."""


class Reading(NamedTuple):
    """The logit of `token`, `from_end` places before the end of the row, is part of the answer `candidate`."""

    candidate: int
    from_end: int
    token: int


@dataclass(frozen=True)
class _Row:
    item: int
    text: str
    answer: tuple[int, ...]
    """Ids of the row's own candidate, with which the processor's ids must end."""
    readings: tuple[Reading, ...]


def score_rows(
    model: nn.Module, processor: Any, items: Sequence[EncodedItem], options: EvaluationOptions
) -> list[list[float]]:
    """Nats of each candidate of each item; ModelError for families that are not causal."""
    plain: Any = unwrapped(model)
    if plain.config.model_type in TWO_WAY_FAMILIES:
        raise ModelError(
            f"the family {plain.config.model_type} reads a prompt in both directions, so answers cannot be scored by "
            "their log-likelihood in one pass; score free answers (generation) instead"
        )
    nats = [_known(item, options) or [0.0] * len(item.continuations) for item in items]
    settled = [any(values) for values in nats]
    rows = [row for index, item in enumerate(items) for row in _rows(index, item)]
    rows_left = Counter(row.item for row in rows)
    for batch in _batches(items, rows, options.batch_size):
        if not all(settled[row.item] for row in batch):
            logits_BKV = _last_logits(plain, processor, items, batch, options.precision)
            log_p_BKV = logits_BKV.float().log_softmax(dim=-1)
            for b, row in enumerate(batch):
                for reading in () if settled[row.item] else row.readings:
                    nats[row.item][reading.candidate] -= float(log_p_BKV[b, -reading.from_end, reading.token])
        rows_left.subtract(row.item for row in batch)
        done = [index for index in dict.fromkeys(row.item for row in batch) if rows_left[index] == 0]
        options.keep(lambda done=done: {items[index].key: nats[index] for index in done if not settled[index]})
        options.finished(len(done))
    return nats


def _known(item: EncodedItem, options: EvaluationOptions) -> list[float] | None:
    found = options.known(lambda: [item.key])
    return found[0] if found else None


def _rows(index: int, item: EncodedItem) -> Iterator[_Row]:
    """As few rows as hold every candidate but for its last token, the longest candidates first."""
    left = sorted(range(len(item.continuations)), key=lambda c: -len(item.continuations[c]))
    while left:
        own = item.continuations[left[0]]
        read = [c for c in left if item.continuations[c][:-1] == own[: len(item.continuations[c]) - 1]]
        readings = tuple(
            # a token is predicted one place before its own
            Reading(candidate=c, from_end=len(own) - place + 1, token=token)
            for c in read
            for place, token in enumerate(item.continuations[c])
        )
        yield _Row(index, item.texts[left[0]], own, readings)
        left = [c for c in left if c not in read]


def _batches(items: Sequence[EncodedItem], rows: Sequence[_Row], batch_size: int) -> Iterator[list[_Row]]:
    """Rows of like length together, those with an image apart from those without."""
    for with_image in (True, False):
        kind = [row for row in rows if (items[row.item].image is not None) == with_image]
        kind.sort(key=lambda row: -len(items[row.item].context) - len(row.answer))
        for start in range(0, len(kind), batch_size):
            yield kind[start : start + batch_size]


def _last_logits(
    model: Any, processor: Any, items: Sequence[EncodedItem], rows: Sequence[_Row], precision: Format
) -> Tensor:
    """(B, K, V) logits of the last K places of each row, all rows ending at the last place."""
    images = [[open_image(image)] for row in rows if (image := items[row.item].image) is not None]
    inputs = process(
        processor,
        text=[row.text for row in rows],
        **({"images": images} if images else {}),
        add_special_tokens=items[rows[0].item].adds_special_tokens,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    inputs = as_taken_by(model, inputs)
    for row, ids_L in zip(rows, inputs["input_ids"].tolist(), strict=True):
        if tuple(ids_L[-len(row.answer) :]) != row.answer:
            raise ModelError(
                f"{type(processor).__name__} gives other tokens for a prompt with its image than its tokenizer "
                f"without, so the answer cannot be found in {row.text[-40:]!r}; this processor is not supported"
            )
    num_places = max(reading.from_end for row in rows for reading in row.readings)
    with computing_in(precision, model.device):
        logits_BLV = model(**inputs, logits_to_keep=num_places, use_cache=False).logits
    return logits_BLV[:, -num_places:]
