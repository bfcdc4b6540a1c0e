"""A model of ours inside lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval), written to its version 0.7.3.

    lmms-eval --model textanchor --model_args pretrained=FOLDER --tasks pope,mme

Prompts, scores and greedy answers are those of `textanchor evaluate`. Imports lmms-eval, so import it late.
"""

from collections.abc import Sequence
from typing import Any

from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]

from textanchor.data.items import Item
from textanchor.errors import ConfigError, DataError
from textanchor.evaluation.scoring.candidates import score_candidates
from textanchor.evaluation.scoring.generation import generate_answers
from textanchor.evaluation.suite import EvaluationOptions
from textanchor.vlm.loading import load_vlm

DEFAULT_NEW_TOKENS = 1024
"""What lmms-eval's own models write at most where a task does not say."""


class TextanchorModel(lmms):
    """Any model that `load_vlm` reads: "embedded", a folder, a hub id; one image for each question at most."""

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 8,
        device: str | None = None,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        if not str(batch_size).isdigit():
            raise ConfigError(f"batch_size={batch_size!r}: give a number; it is not found out automatically")
        self._model, self._processor = load_vlm(pretrained)
        if device is not None:
            self._model.to(device)  # pyright: ignore[reportArgumentType]
        rows = min(int(batch_size), max_batch_size or int(batch_size))
        self._options = EvaluationOptions(batch_size=rows)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Greedy answers, cut at the first of the task's stop strings.

        ConfigError where a task asks for sampling or several beams.
        """
        answers: dict[int, str] = {}
        lengths = [_max_new_tokens(request.args[1]) for request in requests]
        for length in dict.fromkeys(lengths):  # answers of one length are written side by side
            places = [place for place, own in enumerate(lengths) if own == length]
            items = [self._item(requests[place].args, place, answer="") for place in places]
            texts = generate_answers(self._model, self._processor, items, max_new_tokens=length, options=self._options)
            for place, text in zip(places, texts, strict=True):
                answers[place] = _cut(text, requests[place].args[1].get("until"))
        return [answers[place] for place in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Cross-entropy of each continuation in nats, and whether the greedy answer begins with it.

        Of the choices of a question lmms-eval takes the one with the least value, as its own models return a loss,
        though its base class speaks of log-probabilities: so this is -log p.
        """
        items = [self._item(request.args, i, self._continuation(request.args)) for i, request in enumerate(requests)]
        scores = score_candidates(self._model, self._processor, items, options=self._options)
        longest = max((score.num_tokens[0] for score in scores), default=0)
        greedy = generate_answers(self._model, self._processor, items, max_new_tokens=longest, options=self._options)
        return [
            (score.nats[0], text.strip().startswith(item.answer))
            for item, score, text in zip(items, scores, greedy, strict=True)
        ]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered: ConfigError."""
        raise ConfigError("textanchor answers one question at a time; leave out tasks of several rounds")

    def _document(self, arguments: Sequence[Any]) -> Any:
        doc_id, task, split = arguments[3:6]
        return self.task_dict[task][split][doc_id]

    def _continuation(self, arguments: Sequence[Any]) -> str:
        target = arguments[1]
        return (target if isinstance(target, str) else str(target(self._document(arguments)))).strip()

    def _item(self, arguments: Sequence[Any], place: int, answer: str) -> Item:
        images = list(arguments[2](self._document(arguments)) or [])
        name = f"{arguments[4]}/{arguments[3]}"
        if len(images) > 1:
            raise DataError(
                f"item {name}: it has {len(images)} images, and one is the most; leave out {arguments[4]!r}"
            )
        image = images[0] if images else None
        image_id = None if image is None else f"{name}/image"
        return Item(
            id=f"{name}/{place}",
            task=arguments[4],
            question=arguments[0],
            answer=answer,
            image=image,
            image_id=image_id,
        )


def _max_new_tokens(settings: dict[str, Any]) -> int:
    """Length of an answer; ConfigError where it is not to be the greedy one."""
    if settings.get("do_sample") or settings.get("temperature") or (settings.get("num_beams") or 1) > 1:
        raise ConfigError(
            f"{settings}: textanchor answers greedily; set do_sample false, temperature 0 and num_beams 1"
        )
    return int(settings.get("max_new_tokens") or DEFAULT_NEW_TOKENS)


def _cut(text: str, until: str | Sequence[str] | None) -> str:
    for stop in [until] if isinstance(until, str) else until or []:
        text = text.split(stop)[0] if stop else text
    return text.strip()
