"""What is learned in a conversation: the answers, each with its end of turn, and nothing else."""

from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from helpers.tiny_llava import IMAGE_TOKEN, tiny_llava_with_processor
from helpers.tiny_runs import conversation, mixed_conversations
from textanchor.data.items import Item
from textanchor.errors import DataError, ModelError
from textanchor.evaluation.scoring.prompting import encode_item
from textanchor.training.collate import Collator, joined
from textanchor.training.sequences import IGNORED, encode, segments

VICUNA = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ (message['role'] | upper + ': ' if loop.first else '') }}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{{ ' ' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@pytest.fixture
def processor() -> Any:
    return tiny_llava_with_processor()[1]


def learned(example: Any, processor: Any) -> list[str]:
    """Text of each run of labels."""
    runs: list[list[int]] = []
    before = IGNORED
    for label in example.labels_L.tolist():
        if label != IGNORED:
            runs = [*runs, [label]] if before == IGNORED else [*runs[:-1], [*runs[-1], label]]
        before = label
    return [processor.tokenizer.decode(run) for run in runs]


def test_answers_with_their_end_of_turn_are_learned(processor: Any) -> None:
    example = encode(mixed_conversations()[3], processor)
    assert learned(example, processor) == ["red<|im_end|>", "top left<|im_end|>", "yes<|im_end|>"]


def test_labels_stand_at_their_tokens(processor: Any) -> None:
    example = encode(mixed_conversations()[3], processor)
    is_label = example.labels_L != IGNORED
    assert torch.equal(example.labels_L[is_label], example.input_ids_L[is_label])


def test_the_text_is_what_the_chat_template_writes(processor: Any) -> None:
    c = conversation("a", ("What?", "this"), ("And?", "that"), images=1, system="Be brief.")
    assert "".join(segment.text for segment in segments(c, processor)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\nWhat?<|im_end|>\n<|im_start|>assistant\n"
        "this<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\nthat<|im_end|>"
    )


def test_a_prompt_is_tokenized_as_at_inference(processor: Any) -> None:
    c = mixed_conversations()[0]
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What shape is it?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    asked = processor(text=[text], images=[[c.images[0]]], add_special_tokens=False, return_tensors="pt")
    example = encode(c, processor)
    prompt_L = example.input_ids_L[: int((example.labels_L != IGNORED).nonzero()[0])]
    assert torch.equal(prompt_L, asked["input_ids"][0])
    assert torch.equal(example.visual_inputs["pixel_values"], asked["pixel_values"])


def test_an_image_stands_where_its_placeholder_stands(processor: Any) -> None:
    texts = [segment.text for segment in segments(mixed_conversations()[1], processor)]
    assert "Is<image>\nlike<image>\n?" in texts[0]
    later = encode(mixed_conversations()[6], processor)
    assert later.visual_inputs["pixel_values"].shape == (1, 3, 32, 32)
    assert int((later.input_ids_L == processor.image_token_id).sum()) == 16


def test_images_of_several_turns_go_in_together(processor: Any) -> None:
    c = conversation("a", ("One <image>", "yes"), ("Two <image>", "no"), images=(1, 2))
    alone = [encode(conversation("b", ("One", "yes"), images=(seed,)), processor) for seed in (1, 2)]
    expected = torch.cat([example.visual_inputs["pixel_values"] for example in alone])
    assert torch.equal(encode(c, processor).visual_inputs["pixel_values"], expected)


def test_where_the_template_writes_no_end_of_turn_the_tokenizer_s_is_learned(processor: Any) -> None:
    processor.chat_template = VICUNA
    example = encode(conversation("a", ("What?", "this"), ("And?", "that")), processor)
    assert learned(example, processor) == [" this<|im_end|>", " that<|im_end|>"]


def test_the_tokenizer_s_own_beginning_is_added_once_and_its_end_never(processor: Any) -> None:
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    processor.chat_template = VICUNA
    example = encode(conversation("a", ("What?", "this"), ("And?", "that")), processor)
    assert processor.tokenizer.decode(example.input_ids_L) == (
        "<|im_start|>USER: What? ASSISTANT: this<|im_end|> USER: And? ASSISTANT: that<|im_end|>"
    )


@pytest.mark.parametrize(
    ("turns", "images", "expected"),
    [
        ([("<image> and <image>", "yes")], 1, "2 <image> placeholders for 1 images"),
        ([("What?", "an <image>")], 1, "turn 1: the image token <image>"),
        ([], 1, "no turns"),
        ([("What?", "x" * 100)], 1, "more than the 60 allowed"),
    ],
)
def test_a_conversation_that_cannot_be_learned_is_named(
    processor: Any, turns: list[tuple[str, str]], images: int, expected: str
) -> None:
    with pytest.raises(DataError, match="conversation odd") as error:
        encode(conversation("odd", *turns, images=images), processor, max_tokens=60)
    assert expected in str(error.value)


def test_a_template_that_rewrites_earlier_turns_is_refused(processor: Any) -> None:
    processor.chat_template = "{{ messages | length }}" + processor.chat_template
    with pytest.raises(ModelError, match=r"data\.chat_template"):
        encode(mixed_conversations()[3], processor)


def test_without_a_template_the_way_out_is_named(processor: Any) -> None:
    processor.chat_template = None
    with pytest.raises(ModelError, match=r"data\.chat_template"):
        encode(mixed_conversations()[3], processor)


def test_a_batch_pads_on_the_right_and_keeps_all_images(processor: Any) -> None:
    examples = [encode(c, processor) for c in mixed_conversations()[:3]]
    batch = Collator(pad_token_id=0)(examples)
    lengths = [len(example.input_ids_L) for example in examples]
    assert batch["input_ids"].shape == batch["labels"].shape == (3, max(lengths))
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    assert batch["pixel_values"].shape == (3, 3, 32, 32)  # one and two and none


def test_images_of_different_shape_are_padded_with_zeros() -> None:
    grown = joined([torch.ones(1, 2, 3), torch.ones(2, 4, 1)])
    assert grown.shape == (3, 4, 3)
    assert grown.sum() == 6 + 8


def marked(prepend: str) -> Any:
    """One token per character, spaces and the beginning of a text marked as SentencePiece does."""
    words = "USER: ASSISTANT: What shape? And? this that yes no<>/s"
    vocabulary = {
        c: i for i, c in enumerate(["<unk>", "<s>", "</s>", IMAGE_TOKEN, "\u2581", *sorted({*words} - {" "})])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    if prepend == "normalizer":  # as in Llama 2
        steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        tokenizer.normalizer = normalizers.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)  # pyright: ignore
    tokens = ["<unk>", "<s>", "</s>", IMAGE_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


@pytest.mark.parametrize("prepend", ["normalizer", "first", "always"])
def test_no_space_is_marked_where_a_segment_begins(prepend: str, processor: Any) -> None:
    processor.tokenizer, processor.chat_template = marked(prepend), VICUNA
    processor.image_token_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    for images in (0, 1):
        c = conversation("a", ("What shape?", "this"), ("And?", "that"), images=images)
        example = encode(c, processor)
        text = "".join(segment.text for segment in segments(c, processor))
        inputs = {"images": [list(c.images)]} if images else {}
        together = processor(text=[text], **inputs, return_tensors="pt")["input_ids"][0]
        assert processor.tokenizer.convert_ids_to_tokens(example.input_ids_L) == (
            processor.tokenizer.convert_ids_to_tokens(together)
        )
    item = Item(id="a", task="t", question="What shape?", answer="this", choices=("this", "that"))
    asked = encode_item(processor, item, ("this", "that"))
    first_answer = example.labels_L[: int((example.labels_L == 2).nonzero()[0])]
    learned_first = first_answer[first_answer != IGNORED].tolist()
    assert [*asked.context, *asked.continuations[0]][-len(learned_first) :] == learned_first
