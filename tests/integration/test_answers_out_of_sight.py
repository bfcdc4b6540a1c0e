"""PaliGemma and Gemma 3 do not see an answer while they are taught it, though they read prompt and image both ways."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

from helpers.tiny_families import TINY
from helpers.tiny_runs import conversation
from textanchor.errors import DataError, ModelError
from textanchor.training.collate import Collator
from textanchor.training.reference import text_batches
from textanchor.training.sequences import IGNORED, Example, encode
from textanchor.training.trainer import label_logits
from textanchor.vlm.chat import process

# Transformers' processor of PaliGemma reads tensors by NumPy 1's protocol
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

ANSWERS = ("north", "east", "south", "west")
SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>", "<boi>", "<eoi>")
WORDS = ("Where", "does", "it", "point", "?", "Sure", *ANSWERS)
TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}"
    "{{ 'IMAGE' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}{% endfor %}"
)
SIZE = {"height": 32, "width": 32}


def tokenizer() -> PreTrainedTokenizerFast:
    """Words, and line breaks as a word."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*SPECIAL, "\n", *WORDS))}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
    )


def processor_of(family: str) -> Any:
    if family == "gemma3":
        images = Gemma3ImageProcessorPil(size=SIZE)
        template = TEMPLATE.replace("IMAGE", "<boi>")
        return Gemma3Processor(images, tokenizer(), chat_template=template, image_seq_length=4)
    images = SiglipImageProcessorPil(size=SIZE)
    images.image_seq_length = 16
    return PaliGemmaProcessor(images, tokenizer(), chat_template=TEMPLATE.replace("IMAGE", "<image>"))


def model_of(family: str, processor: Any) -> Any:
    model_type, values, _ = TINY[family]
    ids = {token: processor.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    values = copy.deepcopy(values) | {"image_token_index": ids["<image>"]}
    if family == "gemma3":
        values |= {"boi_token_index": ids["<boi>"], "eoi_token_index": ids["<eoi>"]}
    values["text_config"] |= {"vocab_size": len(processor.tokenizer)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **values)).eval()


def asked(processor: Any, *answers: str) -> Example:
    """One picture, asked where it points, and again for each further answer."""
    turns = [("Where does it point ?", answers[0]), *(("Sure ?", answer) for answer in answers[1:])]
    return encode(conversation("-".join(answers), *turns, images=(1,)), processor)


@pytest.fixture(params=["paligemma", "gemma3"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def test_what_comes_before_an_answer_does_not_depend_on_it(family: str) -> None:
    processor = processor_of(family)
    model = model_of(family, processor)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.3)
    collate = Collator(processor.tokenizer.pad_token_id)
    batch = collate([asked(processor, *answers) for answers in (("north", "west"), ("south", "east"))])
    differs_L = (batch["input_ids"][0] != batch["input_ids"][1]).nonzero()[:, 0].tolist()
    labels_BL = batch.pop("labels")
    with torch.no_grad():
        first_LV, second_LV = model(**batch).logits
    assert torch.allclose(first_LV[: differs_L[0]], second_LV[: differs_L[0]], atol=1e-5)
    assert not torch.allclose(first_LV[differs_L[0]], second_LV[differs_L[0]], atol=1e-3)
    assert len(differs_L) == 2
    assert (labels_BL[0, differs_L] != IGNORED).all()
    if family == "paligemma":  # without the marks it would
        batch["token_type_ids"] = torch.zeros_like(batch["token_type_ids"])
        with torch.no_grad():
            first_LV, second_LV = model(**batch).logits
        assert not torch.allclose(first_LV[: differs_L[0]], second_LV[: differs_L[0]], atol=1e-4)


def loss_after_training(model: Any, batch: dict[str, Tensor], *, steps: int) -> float:
    """The lowest mean cross-entropy of a label within the steps."""
    batch, labels_BL = {key: value for key, value in batch.items() if key != "labels"}, batch["labels"]
    targets_K = labels_BL[:, 1:][labels_BL[:, 1:] != IGNORED]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(label_logits(model, batch, labels_BL), targets_K)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return min(losses)


def random_answers(processor: Any) -> dict[str, Tensor]:
    """Each answer as often as any other to the same question about the same picture: nothing tells which is next."""
    return Collator(processor.tokenizer.pad_token_id)([asked(processor, answer) for answer in ANSWERS])


def test_the_loss_on_random_answers_stays_at_their_entropy(family: str) -> None:
    processor = processor_of(family)
    entropy = math.log(len(ANSWERS)) / 2  # of the answer, and nothing for the end that follows it: two labels
    batch = random_answers(processor)
    assert (batch["labels"] != IGNORED).sum() == 2 * len(ANSWERS)
    lowest = loss_after_training(model_of(family, processor), batch, steps=60)
    assert entropy - 1e-4 <= lowest <= entropy + 0.05


def test_the_sequence_is_the_processors_own_and_marked_from_the_first_answer_on() -> None:
    processor = processor_of("paligemma")
    example = asked(processor, "north", "west")
    assert processor.tokenizer.decode(example.input_ids_L).replace(" ", "") == (
        "<image>" * 16 + "<bos>Wheredoesitpoint?\nnorth<eos>Sure?west<eos>"
    )
    learned = example.labels_L[example.labels_L != IGNORED]
    assert processor.tokenizer.decode(learned).replace(" ", "") == "north<eos>west<eos>"
    first = int((example.labels_L != IGNORED).nonzero()[0])
    assert example.token_inputs["token_type_ids"].tolist() == [0] * first + [1] * (len(example.labels_L) - first)
    image = conversation("a", ("Where", "north"), images=(1,)).images
    given = processor(
        text=["<image>Where does it point ?"], images=[list(image)], suffix=["north"], return_tensors="pt"
    )
    (one,) = (asked(processor, "north"),)
    assert torch.equal(given["input_ids"][0], one.input_ids_L)
    assert torch.equal(given["labels"][0], one.labels_L)
    assert torch.equal(given["token_type_ids"][0], one.token_inputs["token_type_ids"])


def test_labels_of_a_processor_never_take_the_place_of_ours() -> None:
    processor = processor_of("paligemma")
    inputs = process(processor, text=["<image>Where"], images=[[conversation("a", ("a", "b"), images=1).images[0]]])
    assert "labels" not in inputs
    example = asked(processor, "north")
    example.token_inputs["labels"] = torch.zeros_like(example.labels_L)
    assert torch.equal(Collator(0)([example])["labels"][0], example.labels_L)


def test_a_conversation_without_an_image_is_refused_by_its_name() -> None:
    processor = processor_of("paligemma")
    with pytest.raises(DataError, match=r"conversation words: .* no image, .* leave such conversations out"):
        encode(conversation("words", ("Where does it point ?", "north")), processor)
    with pytest.raises(ModelError, match=r"takes no text without an image, .*'Where'; leave out"):
        process(processor, text=["Where"], return_tensors="pt")


def test_texts_for_paligemma_are_marked_whole() -> None:
    (paligemma,) = text_batches(processor_of("paligemma"), ["Where does it point ?"], torch.device("cpu"))
    assert paligemma["token_type_ids"].tolist() == [[1] * 5]
    (gemma,) = text_batches(processor_of("gemma3"), ["Where does it point ?"], torch.device("cpu"))
    assert "token_type_ids" not in gemma
