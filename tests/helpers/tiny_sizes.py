"""Tiny configurations of any family from its own default one: sizes are known by the names that families share.

Two layers, width 32, images of 16 patches, a vocabulary of 64; what a family names in a way of its own is given.
"""

from typing import Any

from transformers import CONFIG_MAPPING

from helpers.tiny_config import END, IMAGE, START, VIDEO, VOCAB

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "out_hidden_size", "text_hidden_size", "projection_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "mlp_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "depth", "encoder_layers", "decoder_layers", "layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("head_dim", "kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("v_head_dim", "linear_key_head_dim", "linear_value_head_dim", "index_head_dim", "patch_size"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "linear_num_key_heads", "num_experts_per_tok", "index_n_heads"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("moe_intermediate_size", "sliding_window", "num_position_embeddings", "num_patches"), 16),
    "vocab_size": VOCAB,
    "image_size": 32,
    "linear_num_value_heads": 4,
    "max_position_embeddings": 128,
    "deepstack_visual_indexes": [0],
    "fullatt_block_indexes": [1],
    "window_size": 32,
    **dict.fromkeys(("image_token_id", "image_token_index"), IMAGE),
    **dict.fromkeys(("video_token_id", "video_token_index"), VIDEO),
    **dict.fromkeys(("vision_start_token_id", "image_start_token_id", "boi_token_id", "boi_token_index"), START),
    **dict.fromkeys(("vision_end_token_id", "image_end_token_id", "eoi_token_id", "eoi_token_index"), END),
    **{"video_start_token_id": 58, "video_end_token_id": 59, "audio_token_id": 57, "audio_token_index": 57},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
}


def shrunk(model_type: str, **given: Any) -> dict[str, Any]:
    """Keyword arguments of a tiny configuration; `given` values, also of inner configurations, have the last word.

    What is not a size is left out, so the configuration class fills in its defaults, lists of one entry a layer too.
    """
    tiny = _shrunk(CONFIG_MAPPING[model_type]().to_dict(), given)
    return {name: value for name, value in tiny.items() if name != "model_type"}


def _shrunk(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    tiny: dict[str, Any] = {}
    for name, value in values.items():
        inner = given.get(name)
        if _is_configuration(value) or _is_configuration(inner):
            tiny[name] = _shrunk_inner(value or {}, inner or {})
        elif name == "model_type":
            tiny[name] = value
        elif (name in SIZES and value is not None) or name in ("pad_token_id", "bos_token_id", "image_token_id"):
            tiny[name] = SIZES[name]
    return tiny | {name: value for name, value in given.items() if not _is_configuration(tiny.get(name))}


def _shrunk_inner(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Of an inner configuration, which `given` may be of another type."""
    model_type = given.get("model_type", values.get("model_type"))
    if model_type != values.get("model_type"):
        values = CONFIG_MAPPING[model_type]().to_dict()
    return _shrunk(values, given)


def _is_configuration(value: Any) -> bool:
    return isinstance(value, dict) and "model_type" in value
