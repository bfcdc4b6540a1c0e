"""Tiny random models that can be asked something: each with a byte-level tokenizer, a chat template and a processor."""

import copy
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from helpers.tiny_config import CLIP, TEXT, VISION

SPECIAL = ("<pad>", "<s>", "<end>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
CORPUS = [
    "Is there a red circle in the image? yes no",
    "What shape is in the top left? circle square triangle star heart diamond cross ring",
    "What color is the circle? red green blue yellow orange purple black white",
    "Where is the red ring? top left top right bottom left bottom right",
    "How many objects are in the image? one two three four user assistant",
]
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- message['role'] + '\\n' -}}
{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- else -%}{{- part['text'] -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<end>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'assistant\\n' -}}{%- endif -%}
"""
IMAGE_ID, VOCAB = SPECIAL.index("<image>"), 320
SIZE = {"height": 32, "width": 32}


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with few merges, so that most words are several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<end>",
        extra_special_tokens={"image_token": "<image>"},
        chat_template=CHAT_TEMPLATE,
    )


def tiny_chat_model(family: str, *, seed: int = 0, **text_changes: Any) -> tuple[Any, Any]:
    """Random model in eval mode with its processor; `family` is a key of `PROCESSORS`, or a text-only model type."""
    text = TEXT | {"vocab_size": VOCAB} | text_changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family not in PROCESSORS:
            config = AutoConfig.for_model(**{**text, "model_type": family})
            return _sharpened(AutoModelForCausalLM.from_config(config)), copy.deepcopy(tiny_tokenizer())
        config = AutoConfig.for_model(family, text_config=text, **copy.deepcopy(CONFIGS[family]))
        return _sharpened(AutoModelForImageTextToText.from_config(config)), PROCESSORS[family]()


def _sharpened(model: Any) -> Any:
    """Random weights so large that answers depend on what was asked; with the default of .02 they hardly do."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.3 if "embed" in name else parameter.shape[-1] ** -0.5)
    return model.eval()


def _llava() -> LlavaProcessor:
    image_processor = CLIPImageProcessorPil(size=SIZE, crop_size=SIZE, do_center_crop=False)
    return LlavaProcessor(
        image_processor,
        copy.deepcopy(tiny_tokenizer()),
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def _llava_next() -> LlavaNextProcessor:
    pinpoints = CONFIGS["llava_next"]["image_grid_pinpoints"]
    image_processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size=SIZE, image_grid_pinpoints=pinpoints
    )
    return LlavaNextProcessor(
        image_processor,
        copy.deepcopy(tiny_tokenizer()),
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def _idefics3() -> Idefics3Processor:
    image_processor = Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 32})
    return Idefics3Processor(
        image_processor, copy.deepcopy(tiny_tokenizer()), image_seq_len=4, chat_template=CHAT_TEMPLATE
    )


PROCESSORS = {
    "llava": _llava,
    "vipllava": _llava,
    "llava_next": _llava_next,
    "idefics3": _idefics3,
    "smolvlm": _idefics3,
}
_IDEFICS3 = dict(vision_config=VISION, scale_factor=2, image_token_id=IMAGE_ID, pad_token_id=0)
CONFIGS: dict[str, dict[str, Any]] = {
    "llava": dict(vision_config=CLIP, vision_feature_layer=-2, image_token_index=IMAGE_ID),
    "vipllava": dict(vision_config=CLIP, vision_feature_layers=[-1, -2], image_token_index=IMAGE_ID),
    "llava_next": dict(
        vision_config=CLIP,
        image_grid_pinpoints=[[32, 64], [64, 32]],
        image_token_index=IMAGE_ID,
        vision_feature_layer=-2,
    ),
    "idefics3": _IDEFICS3,
    "smolvlm": _IDEFICS3,  # its own processor needs torchvision; the tokens of one uncut image are the same
}
