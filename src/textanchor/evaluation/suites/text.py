"""Plain text: cross-entropy per token, and how far the distributions moved from those of a base model.

Shape legend: B texts, L tokens of the longest one, V vocabulary, T predicted tokens of all texts of a batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textanchor.data.texts import load_texts
from textanchor.errors import DataError
from textanchor.evaluation.results.kinds import TEXT, Kind
from textanchor.evaluation.scoring.prompting import tokenizer_of
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions, measuring
from textanchor.files import sha256_of_json
from textanchor.records import Score
from textanchor.vlm.causal import causal_on_text, require_causal
from textanchor.vlm.hashing import tensors_hash
from textanchor.vlm.names import unwrapped
from textanchor.vlm.precision import computing_in

LOGITS_AT_ONCE = 25_000_000
"""Bounds the memory of a batch: 100 MB of float32 logits, a few times over."""
MOST_STATE_BYTES = 64 * 2**20
"""Of a base model's states that are kept: 29,000 tokens of the embedded model."""


@dataclass(frozen=True, kw_only=True)
class TextSuite(AbstractSuite):
    """Rows for each text: num_tokens (predicted ones), nats (their cross-entropy, summed) and, where a base model is
    given, base_kl (KL(base || model) in nats, summed over the same places).
    """

    name: str
    texts: dict[str, str]
    """Text by id."""
    max_tokens: int = 256
    """A longer text is cut."""
    base: nn.Module | None = field(default=None, compare=False, repr=False)
    malformed: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[str] = "2"

    @property
    def kind(self) -> Kind:
        return TEXT

    @property
    def num_steps(self) -> int:
        return len(self.texts)

    @cached_property
    def data_hash(self) -> str:
        return sha256_of_json(self.texts)

    @property
    def settings(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "base": self._base_hash}

    @cached_property
    def _base_states(self) -> "_BaseStates":
        return _BaseStates()

    @cached_property
    def _base_hash(self) -> str | None:
        return None if self.base is None else tensors_hash(self.base.state_dict().items())

    def score(self, model: nn.Module, processor: Any, options: EvaluationOptions) -> list[Score]:
        encode = tokenizer_of(processor)
        ids = {name: encode(text)["input_ids"][: self.max_tokens] for name, text in self.texts.items()}
        short = [name for name, row in ids.items() if len(row) < 2]
        if short:
            raise DataError(f"suite {self.name}: text {short[0]!r} has fewer than two tokens, so none can be predicted")
        with ExitStack() as stack:
            for measured in (model, self.base):
                if measured is not None:
                    stack.enter_context(measuring(measured))
            causal = causal_on_text(model)
            require_causal(unwrapped(causal))
            base = causal if self.base is None or unwrapped(model) is self.base else causal_on_text(self.base)
            return list(self._rows(causal, base, ids, options))

    def _rows(
        self, model: nn.Module, base: nn.Module, ids: dict[str, list[int]], options: EvaluationOptions
    ) -> Iterator[Score]:
        for batch in _batches(ids, vocabulary_size(model)):
            found = options.known(lambda batch=batch: batch)
            if found is None:
                found = self._values(model, base, [ids[name] for name in batch], options)
                kept = {name: values for name, values in zip(batch, found, strict=True)}
                options.keep(lambda kept=kept: kept)
            for name, values in zip(batch, found, strict=True):
                for metric, value in values.items():
                    yield Score(suite=self.name, version=self.version, item_id=name, metric=metric, value=value)
            options.finished(len(batch))

    def _values(
        self, model: nn.Module, base: nn.Module, rows: list[list[int]], options: EvaluationOptions
    ) -> list[dict[str, float]]:
        """Values by metric of each text."""
        targets_T = torch.cat([torch.tensor(row[1:]) for row in rows])
        log_p_TV = _log_p(model, rows, options)
        columns = {"nats": -log_p_TV.gather(1, targets_T[:, None].to(log_p_TV.device))[:, 0]}
        if self.base is not None:
            base_TV = log_p_TV if base is model else self._base_states.log_p(base, rows, options)
            columns["base_kl"] = F.kl_div(log_p_TV, base_TV, log_target=True, reduction="none").sum(dim=-1)
        counts = [len(row) - 1 for row in rows]
        sums = {metric: [part.sum().item() for part in column_T.split(counts)] for metric, column_T in columns.items()}
        return [
            {"num_tokens": float(count), **{metric: column[index] for metric, column in sums.items()}}
            for index, count in enumerate(counts)
        ]


def vocabulary_size(model: nn.Module) -> int:
    """Number of logits of each token."""
    plain: Any = unwrapped(model)
    return plain.config.get_text_config().vocab_size


def _batches(ids: dict[str, list[int]], vocabulary: int) -> Iterator[list[str]]:
    """Names of texts of like length."""
    batch: list[str] = []
    for name in sorted(ids, key=lambda name: -len(ids[name])):
        if batch and (len(batch) + 1) * len(ids[batch[0]]) * vocabulary > LOGITS_AT_ONCE:
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch


def _log_p(model: nn.Module, rows: Sequence[list[int]], options: EvaluationOptions) -> Tensor:
    """(T, V) log-probabilities at the places that predict a token, of one text after another."""
    logits_BLV, predicts_BL = _logits(model, rows, options)
    return logits_BLV[predicts_BL].float().log_softmax(dim=-1)


def _logits(model: nn.Module, rows: Sequence[list[int]], options: EvaluationOptions) -> tuple[Tensor, Tensor]:
    """(B, L, V) logits of the texts, and (B, L) bool: the places that predict a token."""
    plain: Any = unwrapped(model)
    device = plain.device
    ids_BL = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)
    lengths_B1 = torch.tensor([[len(row)] for row in rows], device=device)
    places_1L = torch.arange(ids_BL.shape[1], device=device)[None]
    with computing_in(options.precision, device):
        logits_BLV = model(input_ids=ids_BL, attention_mask=(places_1L < lengths_B1).long(), use_cache=False).logits
    return logits_BLV, places_1L < lengths_B1 - 1


class _BaseStates:
    """What enters the base model's head on each batch, kept for the next model that is scored against it.

    Four fifths of a small model's pass are its layers. Not used where a model does more with its logits than its head
    does (scales or caps them), which the first pass shows.
    """

    def __init__(self) -> None:
        self._states: dict[tuple[Any, ...], Tensor] = {}
        self._bytes = 0

    def log_p(self, base: nn.Module, rows: Sequence[list[int]], options: EvaluationOptions) -> Tensor:
        """(T, V) log-probabilities, as `_log_p` gives them."""
        plain: Any = base
        head, key = plain.get_output_embeddings(), (options.precision, *map(tuple, rows))
        if key in self._states:
            states_TD = self._states[key]
            with computing_in(options.precision, states_TD.device):
                return head(states_TD).float().log_softmax(dim=-1)
        seen: list[Tensor] = []
        hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            logits_BLV, predicts_BL = _logits(base, rows, options)
        finally:
            hook.remove()
        states_BLD = seen[0]
        with computing_in(options.precision, states_BLD.device):
            is_all = torch.equal(head(states_BLD), logits_BLV)
        states_TD = states_BLD[predicts_BL]
        if is_all and self._bytes + states_TD.nbytes <= MOST_STATE_BYTES:
            self._states[key] = states_TD
            self._bytes += states_TD.nbytes
        return logits_BLV[predicts_BL].float().log_softmax(dim=-1)


def text_suite(
    *, num_items: int, seed: int = 0, split: Literal["train", "test"] = "test", base: nn.Module | None = None
) -> TextSuite:
    """The first `num_items` shipped texts of a split (all where there are fewer); they have an order but no seed."""
    texts = {row.id: row.text for row in load_texts(split)[:num_items]}
    return TextSuite(name="text", texts=texts, base=base)
