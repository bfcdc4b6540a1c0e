"""What tiny configurations share: two layers, width 32, images of 16 patches, a vocabulary of 64."""

from typing import Any

from torch import Tensor, tensor

VOCAB, IMAGE, VIDEO, START, END = 64, 60, 61, 62, 63

TEXT = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
CLIP = VISION | {"model_type": "clip_vision_model", "projection_dim": 16}
SIGLIP = VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
PIXTRAL = VISION | {"model_type": "pixtral", "num_attention_heads": 2}
GRID_TOWER = {"depth": 2, "hidden_size": 32, "num_heads": 4, "patch_size": 8}  # the towers of Qwen-VL and GLM-4V
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
OPT = {
    "model_type": "opt",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "word_embed_proj_dim": 32,
    "max_position_embeddings": 64,
}
Q_FORMER = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "cross_attention_frequency": 1,
}


def text(model_type: str, **changes: Any) -> dict[str, Any]:
    return TEXT | {"model_type": model_type} | changes


def rope(**changes: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]} | changes


def pixels(*shape: int) -> Tensor:
    """Fixed pseudo-random pixels in [-1, 1]."""
    total = int(tensor(shape).prod())
    return ((tensor(range(total)) * 0.7).sin() * 0.9).reshape(shape)


def image(num_tokens: int, *shape: int, **inputs: Any) -> dict[str, Any]:
    """Inputs beside the tokens; `num_tokens` placeholders stand in the text."""
    return {"num_tokens": num_tokens, "pixel_values": pixels(*(shape or (1, 3, 32, 32)))} | inputs


def patches() -> dict[str, Any]:
    """The Qwen-VL form: flat patches, a 4 x 4 grid, merged 2 x 2."""
    return image(4, 16, 384, image_grid_thw=tensor([[1, 4, 4]]), mm_token_type_ids=True)


QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}
Entry = tuple[str, dict[str, Any], dict[str, Any]]
"""model_type, configuration, inputs"""
