"""A tiny LLaVA with a real processor, made from nothing: any text tokenizes, images are 32 x 32, no download."""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip import CLIPVisionConfig

from helpers.tiny_config import CLIP, TEXT

IMAGE_TOKEN, START, END = "<image>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that every text comes back as it was; the special tokens are 0 to 3."""
    specials = ["<pad>", START, END, IMAGE_TOKEN]
    vocabulary = {token: i for i, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token=START,
        eos_token=END,
        extra_special_tokens={"image_token": IMAGE_TOKEN},
    )


def tiny_llava_with_processor(
    *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Random two-layer LLaVA (width 32, 16 visual tokens) in eval mode, and a processor that fits it."""
    tokenizer = tiny_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**{name: value for name, value in CLIP.items() if name != "model_type"}),
        text_config=LlamaConfig(
            **{name: value for name, value in TEXT.items() if name != "model_type"}
            | {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, "tie_word_embeddings": True},
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"height": 32, "width": 32}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token, which "default" drops
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
    )
    return model.to(dtype).eval(), processor
