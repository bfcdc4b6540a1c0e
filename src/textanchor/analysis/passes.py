"""The passes over a model that measuring needs: images with a question, texts by themselves, captions in pairs.

Images go one by one, because a processor may cut them into any number of crops; the states of each then need no
book-keeping, and nothing is padded. Text is run through the language model alone, where positions hold text only.

Shape legend: B documents, L tokens, N tokens of one document or image, D width.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.analysis.states import batches_of_like_length
from textanchor.data.items import ImageSource, Item, open_image
from textanchor.errors import DataError, ModelError
from textanchor.evaluation.scoring.prompting import adds_special_tokens, render_prompt, tokenizer_of
from textanchor.vlm.capture import capture_inputs, capture_outputs, capture_projector, token_mask, visual_token_ids
from textanchor.vlm.chat import process
from textanchor.vlm.layers import decoder_layers
from textanchor.vlm.logits import without_logits
from textanchor.vlm.names import unwrapped
from textanchor.vlm.parts import VLMParts

TEXT_BATCH = 8
QUESTION = "Describe the image."
_ANY_IMAGE = Path("image")  # the prompt only asks whether there is one

Receive = Callable[[int, int, Tensor], None]
"""Called with a depth, the index of the image, and its (N, D) states there."""
ReceiveText = Callable[[int, int, Tensor, Tensor], None]
"""Called with a depth, the index of the text, its (N, D) states there and the (N,) ids of their tokens."""


@dataclass(frozen=True)
class ImageReceivers:
    """What to do with the states of an image; each is called with its index first."""

    at_depth: Receive
    tower: Callable[[int, Tensor], None]
    projected: Callable[[int, Tensor], None]


class Passes:
    """A model with its layers, ready to be run on images and texts without gradients."""

    def __init__(self, parts: VLMParts, processor: Any):
        self.parts, self.processor = parts, processor
        self.layers = decoder_layers(parts)
        self.model: Any = unwrapped(parts.model)
        self.device = next(parts.module(parts.language_model).parameters()).device
        self.visual_ids = visual_token_ids(parts.model)
        self.without_logits = without_logits(parts.model)
        self.prompt = render_prompt(
            processor, Item(id="measure", task="measure", question=QUESTION, answer="", image=_ANY_IMAGE)
        )

    @property
    def num_layers(self) -> int:
        """Number of decoder layers; depths go from 0 to this number."""
        return len(self.layers)

    def run_images(
        self,
        images: Iterable[ImageSource],
        receivers: ImageReceivers,
        depths: Sequence[int] | None = None,
    ) -> None:
        """States at the positions of each image, one image at a time, at all depths or at those given."""
        special = adds_special_tokens(self.processor, self.prompt)
        for index, image in enumerate(images):
            inputs = process(
                self.processor,
                text=[self.prompt],
                images=[[open_image(image)]],
                add_special_tokens=special,
                return_tensors="pt",
            ).to(self.device)
            self.run_inputs(inputs, index, receivers, depths)

    def run_inputs(
        self, inputs: Any, index: int, receivers: ImageReceivers, depths: Sequence[int] | None = None
    ) -> None:
        """The same for one image that was made into inputs of the model already."""
        mask_BL = token_mask(inputs, "visual", self.visual_ids)
        if not mask_BL.any():
            raise ModelError(
                f"{type(self.model).__name__}: its processor put no image token ({self.visual_ids}) into the prompt "
                f"{self.prompt!r}; its chat template must write the image's place"
            )
        ends = {"inputs": receivers.tower, "outputs": receivers.projected}

        def run() -> None:
            capture_projector(
                self.parts,
                lambda: self.model(**inputs, use_cache=False, **self.without_logits),
                lambda end, states_ND: ends[end](index, states_ND),
            )

        _at_depths(
            self.parts.model,
            self.layers,
            run,
            lambda depth, x_ND: receivers.at_depth(depth, index, x_ND),
            mask_BL,
            depths,
        )

    def run_texts(
        self, texts: Sequence[str], receive: ReceiveText, *, max_tokens: int, depths: Sequence[int] | None = None
    ) -> None:
        """States of each text's tokens, in the language model alone; see `run_texts`."""
        language_model = self.parts.module(self.parts.language_model)
        run_texts(self.parts.model, language_model, self.layers, self.processor, texts, receive, max_tokens, depths)


def run_texts(
    root: nn.Module,
    language_model: nn.Module,
    layers: Sequence[str],
    processor: Any,
    texts: Sequence[str],
    receive: ReceiveText,
    max_tokens: int,
    depths: Sequence[int] | None = None,
) -> None:
    """States of each text's tokens at the layers (base names in `root`), first and begin-of-text tokens left out.

    DataError where a text has no token beside those.
    """
    tokenizer = tokenizer_of(processor)
    device = next(language_model.parameters()).device
    rows = [tokenizer(text)["input_ids"][:max_tokens] for text in texts]
    counted = [[i > 0 and token != tokenizer.bos_token_id for i, token in enumerate(row)] for row in rows]
    empty = [index for index, row in enumerate(counted) if not any(row)]
    if empty:
        raise DataError(
            f"text {empty[0] + 1} ({texts[empty[0]][:60]!r}) has a single token or none, and the first is not "
            "measured; leave it out"
        )
    for batch in batches_of_like_length(rows, TEXT_BATCH):
        longest = len(rows[batch[-1]])
        ids_BL = torch.tensor([rows[i] + [0] * (longest - len(rows[i])) for i in batch])
        real_BL = torch.tensor([[j < len(rows[i]) for j in range(longest)] for i in batch])
        kept_BL = torch.tensor([counted[i] + [False] * (longest - len(rows[i])) for i in batch])
        ids = [ids_L[kept_L] for ids_L, kept_L in zip(ids_BL, kept_BL, strict=True)]

        def receive_rows(depth: int, states_ND: Tensor, batch: list[int] = batch, ids: list[Tensor] = ids) -> None:
            for index, own_ND, ids_N in zip(batch, states_ND.split([len(i) for i in ids]), ids, strict=True):
                receive(depth, index, own_ND, ids_N)

        inputs = {"input_ids": ids_BL.to(device), "attention_mask": real_BL.long().to(device)}
        run = partial(language_model, **inputs, use_cache=False)
        _at_depths(root, layers, run, receive_rows, kept_BL, depths)


def _at_depths(
    root: nn.Module,
    layers: Sequence[str],
    run: Callable[[], object],
    receive: Callable[[int, Tensor], None],
    mask_BL: Tensor,
    depths: Sequence[int] | None,
) -> None:
    """Depth i is what enters layer i; the last depth is what leaves the last layer."""
    depth_of = {name: depth for depth, name in enumerate(layers) if depths is None or depth in depths}
    last = layers[-1:] if depths is None or len(layers) in depths else []

    def run_with_last() -> None:
        capture_outputs(root, last, run, lambda _, x_ND: receive(len(layers), x_ND), token_mask=mask_BL)

    capture_inputs(root, depth_of, run_with_last, lambda name, x_ND: receive(depth_of[name], x_ND), token_mask=mask_BL)
