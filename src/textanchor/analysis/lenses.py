"""Which words visual tokens look like: embedding, contextual and logit lens, with a gallery of images.

Shape legend: N visual states, V rows of a table, D width.
"""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.analysis.gather import TEXT, VISUAL, Gathered
from textanchor.analysis.passes import ImageReceivers, Passes
from textanchor.analysis.states import place_of
from textanchor.analysis.tables import Numbers
from textanchor.data.captioned import CaptionedImage
from textanchor.data.items import open_image
from textanchor.evaluation.scoring.prompting import tokenizer_of
from textanchor.evaluation.suite import measuring
from textanchor.geometry import nearest_text_tokens
from textanchor.vlm.names import base_modules

WORDS_SHOWN = 6
THUMBNAIL = 224
NUM_SUMMED = 512


@dataclass(frozen=True)
class Lens:
    """One way of reading a visual state as a word."""

    name: str
    depth: int
    table_VD: Tensor
    ids_V: Tensor
    """Token of each row of the table."""
    norm: nn.Module | None
    """Applied to the states first; a lens with one reads logits, the others cosines."""

    def best(self, states_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) best scores and (N,) ids of their tokens."""
        score = "cosine"
        if self.norm is not None:
            states_ND, score = self.norm(states_ND.to(next(self.norm.parameters()))).float(), "logit"
        found = nearest_text_tokens(states_ND, self.table_VD, 1, score=score)
        return found.scores_NK[:, 0], self.ids_V[found.rows_NK[:, 0]]


def lens_numbers(passes: Passes, gathered: Gathered, images: Sequence[CaptionedImage], *, num_shown: int) -> Numbers:
    """Summary of each lens over visual tokens of all images, and what it reads in the first `num_shown` images.

    The gallery holds thumbnails of those images and a caption of each: it is for the user's own page.
    """
    lenses = _lenses(passes, gathered)
    shown = list(images[:num_shown])
    states: dict[tuple[int, int], Tensor] = {}
    receivers = ImageReceivers(
        at_depth=lambda depth, index, x_ND: states.__setitem__((depth, index), x_ND.float().clone()),
        tower=lambda index, x_ND: None,
        projected=lambda index, x_ND: None,
    )
    with measuring(passes.parts.model):
        passes.run_images((image.image for image in shown), receivers, depths=[lens.depth for lens in lenses])
        gallery = [
            {
                "image_png_base64": _thumbnail(image),
                "id": image.id,
                "captions": list(image.captions[:1]),
                "words": {lens.name: _words(passes, lens, states[lens.depth, index]) for lens in lenses},
            }
            for index, image in enumerate(shown)
        ]
        summary = [_summary(passes, gathered, lens) for lens in lenses]
    return {"summary": summary, "gallery": gallery}


def _lenses(passes: Passes, gathered: Gathered) -> list[Lens]:
    """Embedding lens at the entry, contextual in the middle, logit lens at the end where there are norm and head."""
    parts, middle = passes.parts, gathered.depths[len(gathered.depths) // 2]
    embedding_VD = parts.module(parts.input_embedding).get_parameter("weight").detach()
    used_V = embedding_VD.norm(dim=1) > 0  # rows that pad the vocabulary have no direction
    ids_V = torch.arange(len(embedding_VD))
    sample = gathered.places[place_of(TEXT, middle)].sample
    assert sample is not None
    lenses = [
        Lens("embedding", 0, embedding_VD[used_V], ids_V[used_V.cpu()], None),
        Lens("contextual", middle, sample.states_MD, sample.label_M, None),
    ]
    norm = final_norm(passes)
    if parts.output_head is not None and norm is not None:
        head_VD = parts.module(parts.output_head).get_parameter("weight").detach()
        lenses.append(Lens("logit", passes.num_layers, head_VD, torch.arange(len(head_VD)), norm))
    return lenses


def final_norm(passes: Passes) -> nn.Module | None:
    """The one norm that stands beside the decoder layers, after them; None where there is not exactly one."""
    above = passes.layers[0].rsplit(".", 2)[0]
    modules = base_modules(passes.parts.model)
    beside = {name: module for name, module in modules.items() if name.rpartition(".")[0] == above}
    after = list(beside)[list(beside).index(passes.layers[0].rsplit(".", 1)[0]) + 1 :]
    norms = [beside[name] for name in after if "norm" in name.rpartition(".")[2].lower()]
    return norms[0] if len(norms) == 1 else None


def _summary(passes: Passes, gathered: Gathered, lens: Lens) -> Numbers:
    sample = gathered.places[place_of(VISUAL, lens.depth)].sample
    assert sample is not None
    states_ND = sample.states_MD[:: max(1, len(sample.states_MD) // NUM_SUMMED)]
    scores_N, ids_N = lens.best(states_ND.to(passes.device))
    most_common = Counter(ids_N.tolist()).most_common(1)[0][1]
    summary = {"lens": lens.name, "depth": lens.depth, "num_tokens": len(ids_N)}
    if lens.norm is None:
        summary["mean_best_cosine"] = float(scores_N.mean())
    return summary | {
        "different_words": len(set(ids_N.tolist())) / len(ids_N),
        "most_common_word": most_common / len(ids_N),
    }


def _words(passes: Passes, lens: Lens, states_ND: Tensor) -> list[list[Any]]:
    tokenizer = tokenizer_of(passes.processor)
    counts = Counter(lens.best(states_ND)[1].tolist())
    return [[_shown(tokenizer.decode([token])), count] for token, count in counts.most_common(WORDS_SHOWN)]


def _shown(word: str) -> str:
    return word.strip() or repr(word)[1:-1]


def _thumbnail(image: CaptionedImage) -> str:
    picture = open_image(image.image).copy()
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
