"""Tiny random vision-language models as data, one entry per family; `TINY` holds all of them."""

from torch import tensor

from helpers.tiny_config import (
    CLIP,
    END,
    GRID_TOWER,
    IMAGE,
    PIXTRAL,
    QWEN_IDS,
    SIGLIP,
    SLIDING,
    START,
    TEXT,
    VIDEO,
    VISION,
    VOCAB,
    Entry,
    image,
    patches,
    rope,
    text,
)
from helpers.tiny_families_more import MORE

TINY: dict[str, Entry] = MORE | {
    "llava": (
        "llava",
        dict(vision_config=CLIP, text_config=TEXT, vision_feature_layer=-2, image_token_index=IMAGE),
        image(16),
    ),
    "pixtral_llava": (
        "llava",
        dict(
            vision_config=PIXTRAL,
            text_config=text("mistral"),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            image_token_index=IMAGE,
        ),
        image(16, image_sizes=tensor([[32, 32]])),
    ),
    "vipllava": (
        "vipllava",
        dict(vision_config=CLIP, text_config=TEXT, vision_feature_layers=[-1, -2], image_token_index=IMAGE),
        image(16),
    ),
    "llava_next": (
        "llava_next",
        dict(
            vision_config=CLIP,
            text_config=TEXT,
            image_grid_pinpoints=[[32, 64], [64, 32]],
            image_token_index=IMAGE,
        ),
        image(52, 1, 3, 3, 32, 32, image_sizes=tensor([[32, 64]])),
    ),
    "llava_onevision": (
        "llava_onevision",
        dict(
            vision_config=SIGLIP,
            text_config=text("qwen2"),
            image_grid_pinpoints=[[32, 32], [32, 64], [64, 32]],
            image_token_index=IMAGE,
            video_token_index=VIDEO,
        ),
        image(52, 1, 3, 3, 32, 32, image_sizes=tensor([[32, 64]]), batch_num_images=tensor([1])),
    ),
    "idefics2": (
        "idefics2",
        dict(
            vision_config=VISION,
            perceiver_config=dict(
                hidden_size=32,
                resampler_n_latents=4,
                resampler_depth=2,
                resampler_n_heads=4,
                resampler_head_dim=8,
                num_key_value_heads=2,
            ),
            text_config=text("mistral"),
            image_token_id=IMAGE,
        ),
        image(4, 1, 1, 3, 32, 32),
    ),
    "idefics3": (
        "idefics3",
        dict(vision_config=VISION, text_config=TEXT, scale_factor=2, image_token_id=IMAGE, pad_token_id=0),
        image(4, 1, 1, 3, 32, 32),
    ),
    "smolvlm": (
        "smolvlm",
        dict(vision_config=VISION, text_config=TEXT, scale_factor=2, image_token_id=IMAGE, pad_token_id=0),
        image(4, 1, 1, 3, 32, 32),
    ),
    "qwen2_vl": (
        "qwen2_vl",
        dict(
            vision_config=GRID_TOWER | {"embed_dim": 32, "mlp_ratio": 2},
            text_config=text("qwen2_vl_text", rope_parameters=rope()),
            **QWEN_IDS,
        ),
        patches(),
    ),
    "qwen2_5_vl": (
        "qwen2_5_vl",
        dict(
            vision_config=GRID_TOWER
            | {"intermediate_size": 48, "window_size": 32, "out_hidden_size": 32, "fullatt_block_indexes": [1]},
            text_config=text("qwen2_5_vl_text", rope_parameters=rope()),
            **QWEN_IDS,
        ),
        patches(),
    ),
    "qwen3_vl": (
        "qwen3_vl",
        dict(
            vision_config=GRID_TOWER
            | {
                "intermediate_size": 48,
                "out_hidden_size": 32,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            text_config=text("qwen3_vl_text", head_dim=8, rope_parameters=rope(mrope_interleaved=True)),
            **QWEN_IDS,
        ),
        patches(),
    ),
    "qwen3_5": (
        "qwen3_5",
        dict(
            vision_config=GRID_TOWER | {"intermediate_size": 48, "out_hidden_size": 32, "num_position_embeddings": 16},
            text_config=text(
                "qwen3_5_text",
                head_dim=8,
                layer_types=["linear_attention", "full_attention"],
                linear_key_head_dim=8,
                linear_value_head_dim=8,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                rope_parameters=rope(partial_rotary_factor=1.0),
            ),
            **QWEN_IDS,
        ),
        patches(),
    ),
    "glm4v": (
        "glm4v",
        dict(
            vision_config=GRID_TOWER | {"intermediate_size": 48, "image_size": 32, "out_hidden_size": 32},
            text_config=text("glm4v_text", head_dim=8, rope_parameters=rope()),
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            image_start_token_id=START,
            image_end_token_id=END,
            video_start_token_id=58,
            video_end_token_id=59,
        ),
        patches(),
    ),
    "internvl": (
        "internvl",
        dict(
            vision_config=VISION | {"image_size": [32, 32], "patch_size": [8, 8]},
            text_config=text("qwen2"),
            image_seq_length=4,
            image_token_id=IMAGE,
        ),
        image(4),
    ),
    "paligemma": (
        "paligemma",
        dict(
            vision_config=SIGLIP,
            text_config=text("gemma", head_dim=8),
            projection_dim=32,
            hidden_size=32,
            image_token_index=IMAGE,
        ),
        image(16, token_type_ids=False),
    ),
    "gemma3": (
        "gemma3",
        dict(
            vision_config=SIGLIP,
            text_config=text("gemma3_text", head_dim=8, **SLIDING),
            mm_tokens_per_image=4,
            image_token_index=IMAGE,
            boi_token_index=VIDEO,
            eoi_token_index=START,
        ),
        image(4, token_type_ids=True),
    ),
    "gemma4": (
        "gemma4",
        dict(
            vision_config=dict(
                model_type="gemma4_vision",
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
                head_dim=8,
                patch_size=8,
                position_embedding_size=16,
                pooling_kernel_size=2,
            ),
            audio_config=None,
            text_config=text(
                "gemma4_text",
                head_dim=8,
                global_head_dim=8,
                hidden_size_per_layer_input=0,
                num_kv_shared_layers=0,
                vocab_size_per_layer_input=VOCAB,
                **SLIDING,
            ),
            image_token_id=IMAGE,
        ),
        image(
            4,
            1,
            16,
            192,
            image_position_ids=tensor([[[x, y] for y in range(4) for x in range(4)]]),
            mm_token_type_ids=True,
        ),
    ),
    "mllama": (
        "mllama",
        dict(
            vision_config=dict(
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_global_layers=1,
                attention_heads=4,
                image_size=32,
                patch_size=8,
                max_num_tiles=4,
                intermediate_layers_indices=[0],
                vision_output_dim=64,
            ),
            text_config=text(
                "mllama_text_model",
                cross_attention_layers=[1],
                rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            ),
            image_token_index=IMAGE,
        ),
        image(
            1,
            1,
            1,
            4,
            3,
            32,
            32,
            aspect_ratio_ids=tensor([[1]]),
            aspect_ratio_mask=tensor([[[1, 0, 0, 0]]]),
            cross_attention_mask=True,
        ),
    ),
}
