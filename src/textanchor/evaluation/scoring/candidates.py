"""Log-likelihood of candidate answers: closed questions answered without generating a token."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

from torch import nn

from textanchor.data.items import Item
from textanchor.errors import DataError
from textanchor.evaluation.scoring.prompting import encode_item
from textanchor.evaluation.scoring.rows import score_rows
from textanchor.evaluation.scoring.shared import score_shared
from textanchor.evaluation.suite import EvaluationOptions, measuring
from textanchor.vlm.names import unwrapped

logger = logging.getLogger(__name__)

SHARING_FAMILIES = ("llava", "vipllava", "idefics3", "smolvlm")
"""Families in which an image is its projected tokens and nothing else, and which tests compare with single prompts."""
SHARING_DECODERS = ("llama", "mistral", "qwen2", "qwen3")
"""Causal decoders with rotary positions that take a 4-D attention mask; compared by the same tests."""


@dataclass(frozen=True, kw_only=True)
class AnswerScores:
    """How likely a model finds each candidate answer of one item."""

    item_id: str
    candidates: tuple[str, ...]
    nats: tuple[float, ...]
    """-log p(candidate | prompt), summed over its tokens."""
    num_tokens: tuple[int, ...]

    def nats_of(self, candidate: str) -> float:
        """Cross-entropy of a candidate, summed over its tokens, in nats."""
        return self.nats[self.candidates.index(candidate)]

    def choice_nats_of(self, candidate: str) -> float:
        """The same after normalising over the candidates: -log (p / sum of all p), in nats."""
        least = min(self.nats)
        return self.nats_of(candidate) - least + log(sum(exp(least - nats) for nats in self.nats))

    @property
    def best(self) -> str:
        """The most likely candidate; of equals the first."""
        return self.candidates[self.nats.index(min(self.nats))]

    @property
    def best_normalised(self) -> str:
        """The candidate with the most likely token on average; of equals the first."""
        means = [nats / n for nats, n in zip(self.nats, self.num_tokens, strict=True)]
        return self.candidates[means.index(min(means))]


def sharing_obstacle(model: nn.Module) -> str | None:
    """Why questions about one image cannot share its tokens in this model; None where they can."""
    plain: Any = unwrapped(model)
    config = plain.config
    text = config.get_text_config()
    if text is not config and config.model_type not in SHARING_FAMILIES:
        return f"the family {config.model_type} is not known to show an image by its projected tokens alone"
    if text.model_type not in SHARING_DECODERS:
        return f"the language model {text.model_type} is not known to be a plain causal decoder"
    if "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
        return "positions have several axes"
    layers = set(getattr(text, "layer_types", None) or ())
    if layers - {"full_attention"} or (not layers and getattr(text, "sliding_window", None)):
        return "some layers attend to a sliding window"
    if text._attn_implementation not in ("sdpa", "eager"):
        return f"the attention implementation {text._attn_implementation} takes no 4-D mask; sdpa and eager do"
    return None


def score_candidates(
    model: nn.Module,
    processor: Any,
    items: Sequence[Item],
    *,
    blind: bool = False,
    options: EvaluationOptions | None = None,
) -> list[AnswerScores]:
    """Scores of every item's choices, or of its gold answer alone where it has none, in the order of the items.

    Without images where `blind`. Items that show one image are computed as one row where the model allows it (see
    `sharing_obstacle`), otherwise row by row. Raises DataError where the gold answer is not among the choices.
    """
    options = options or EvaluationOptions()
    encoded = [encode_item(processor, item, _candidates(item), blind=blind) for item in items]
    obstacle = "sharing='off'" if options.sharing == "off" else sharing_obstacle(model)
    if obstacle is not None:
        logger.info("scoring row by row: %s", obstacle)
    score = score_shared if obstacle is None else score_rows
    with measuring(model):
        nats = score(model, processor, encoded, options)
    return [
        AnswerScores(
            item_id=item.id,
            candidates=_candidates(item),
            nats=tuple(row),
            num_tokens=tuple(map(len, code.continuations)),
        )
        for item, code, row in zip(items, encoded, nats, strict=True)
    ]


def _candidates(item: Item) -> tuple[str, ...]:
    if item.choices and item.answer not in item.choices:
        raise DataError(f"item {item.id}: its answer {item.answer!r} is not among its choices {list(item.choices)}")
    return item.choices or (item.answer,)
