"""Tiny models of further families, as in tiny_families_shrunk.py, which adds these to `SHRUNK`."""

from typing import Any

from torch import ones, tensor, zeros

from helpers.tiny_config import IMAGE, image, patches, pixels, rope

Shrunk = tuple[dict[str, Any], dict[str, Any]]
"""Values of the configuration beside those of `shrunk`; inputs beside the tokens."""

MROPE = {"rope_parameters": rope()}
LINEAR_AND_FULL = {
    "layer_types": ["linear_attention", "full_attention"],
    "rope_parameters": rope(partial_rotary_factor=1.0),
}
GRID = tensor([[1, 4, 4]])
FLAT = image(4, 16, 192, image_grid_thw=GRID, mm_token_type_ids=True)  # patches of one frame
POSITIONS = tensor([[[x, y] for y in range(4) for x in range(4)]])
SAM = dict(
    hidden_size=24,
    output_channels=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=128,
    patch_size=8,
    mlp_dim=32,
    window_size=4,
    global_attn_indexes=[1],
)
OCR_VISION = {"sam_config": SAM | {"downsample_channels": [16, 32]}}
OMNI_AUDIO = dict(
    d_model=32,
    encoder_layers=1,
    encoder_attention_heads=4,
    encoder_ffn_dim=48,
    num_mel_bins=16,
    max_source_positions=16,
    n_window=4,
    output_dim=32,
)
MINICPM = (
    dict(vision_config=dict(insert_layer_id=0), text_config=LINEAR_AND_FULL),
    image(1, 1, 3, 8, 128, target_sizes=tensor([[4, 4]]), mm_token_type_ids=True),
)

SHRUNK_MORE: dict[str, Shrunk] = {
    "kosmos-2": (dict(latent_query_num=4, text_config=dict(embed_dim=32)), image(4, image_embeds_position_mask=True)),
    "kosmos-2.5": (
        dict(latent_query_num=4, text_config=dict(embed_dim=32)),
        dict(num_tokens=4, flattened_patches=pixels(1, 16, 770), image_embeds_position_mask=True),
    ),
    "lfm3_vl": (dict(projector_hidden_size=32, text_config=dict(layer_types=["conv", "full_attention"])), patches()),
    "lighton_ocr": ({}, image(4, image_sizes=tensor([[32, 32]]))),
    "llama4": (
        dict(
            vision_config=dict(
                intermediate_size=128, projector_input_dim=32, projector_output_dim=32, vision_output_dim=32
            ),
            text_config=dict(intermediate_size_mlp=48, num_experts_per_tok=1),
        ),
        image(4),
    ),
    "llava_next_video": (
        dict(image_grid_pinpoints=[[32, 64], [64, 32]]),
        image(52, 1, 3, 3, 32, 32, image_sizes=tensor([[32, 64]])),
    ),
    "minicpm_ocr": (MINICPM[0], MINICPM[1] | {"num_tokens": 4}),
    "minicpmv4_6": MINICPM,
    "minicpmv4_7": MINICPM,
    "minimax_m3_vl": (dict(projector_hidden_size=32), patches()),
    "mistral_large4": (
        dict(text_config=dict(num_key_value_heads=4, index_topk=16)),
        image(4, image_sizes=tensor([[32, 32]])),
    ),
    "molmo2": (
        dict(
            image_patch_id=IMAGE,
            vision_config=dict(image_size=[32, 32], num_key_value_heads=4),
            adapter_config=dict(vision_feature_layer=[1, 0], num_key_value_heads=4),
            text_config=dict(additional_vocab_size=4),
        ),
        image(
            4,
            1,
            16,
            192,
            image_token_pooling=tensor([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]),
            image_grids=tensor([[2, 2, 0, 0]]),
        ),
    ),
    "muse_glimmer": (dict(projector_hidden_size=32, out_hidden_size=128), patches()),
    "muse_spark": (
        dict(
            projector_hidden_size=32,
            out_hidden_size=128,
            text_config=dict(moe_hidden_size=32),
            audio_config=dict(num_hidden_layers=4, hidden_sizes=[8, 8, 8, 8]),
        ),
        patches(),
    ),
    "nemotron_h_omni": (
        dict(
            vision_config=dict(video_temporal_patch_size=2, max_img_size=64),
            projector_hidden_size=32,
            vision_hidden_size=32,
            text_config=dict(
                ssm_state_size=8,
                mamba_num_heads=4,
                mamba_head_dim=8,
                n_groups=1,
                layers_block_type=["linear_attention", "moe", "full_attention", "mlp"],
                moe_shared_expert_intermediate_size=16,
            ),
        ),
        image(4, 16, 192, image_grid_hw=tensor([[4, 4]])),
    ),
    "paddleocr_vl": (dict(text_config=MROPE), image(4, 16, 3, 8, 8, image_grid_thw=GRID, mm_token_type_ids=True)),
    "perception_lm": (
        dict(vision_config=dict(hidden_size=24, model_args={"embed_dim": 24}), vision_use_cls_token=False),
        image(16, 1, 1, 3, 32, 32),
    ),
    "phi4_multimodal": (
        dict(
            vision_config=dict(image_token_id=IMAGE, crop_size=32, hidden_size=32),
            audio_config=dict(
                audio_token_id=57,
                num_blocks=1,
                ext_pw_out_channel=8,
                depthwise_separable_out_channel=8,
                nemo_conv_channels=8,
            ),
        ),
        dict(
            num_tokens=13,
            image_pixel_values=pixels(1, 2, 3, 32, 32),
            image_sizes=tensor([[32, 32]]),
            image_attention_mask=ones(1, 2, 4, 4).bool(),
        ),
    ),
    "pi0": (
        dict(vlm_config=dict(text_config=dict(head_dim=8)), dit_config=dict(head_dim=8), chunk_size=2),
        image(16, 1, 1, 3, 32, 32, state=zeros(1, 32), pixel_attention_mask=ones(1, 1).bool()),
    ),
    "pix2struct": ({}, image(0)),
    "pp_chart2table": (
        dict(vision_config=dict(image_size=128, output_channels=16, window_size=4, global_attn_indexes=[1])),
        image(16, 1, 3, 128, 128),
    ),
    "pp_formulanet": (
        dict(
            vision_config=dict(
                post_conv_in_channels=16,
                post_conv_mid_channels=16,
                post_conv_out_channels=16,
                decoder_hidden_size=32,
                output_channels=16,
                window_size=4,
                global_attn_indexes=[1],
            )
        ),
        image(0, decoder_input_ids=tensor([[2, 5, 6]])),
    ),
    "qianfan_ocr": ({}, image(4)),
    "qwen2_5_omni_thinker": (dict(vision_start_token_id=62, audio_config=OMNI_AUDIO, text_config=MROPE), patches()),
    "qwen3_5_moe": (
        dict(
            text_config=LINEAR_AND_FULL | {"shared_expert_intermediate_size": 16},
        ),
        patches(),
    ),
    "qwen3_omni_moe_thinker": (
        dict(vision_start_token_id=62, audio_config=OMNI_AUDIO | dict(downsample_hidden_size=8), text_config=MROPE),
        patches(),
    ),
    "qwen3_vl_moe": (dict(text_config=MROPE), patches()),
    "qwen4_exp": (
        dict(
            text_config=dict(
                layer_types=["linear_attention", "indexed_attention"],
                rope_parameters=rope(partial_rotary_factor=1.0),
                shared_expert_intermediate_size=16,
                hc_lowrank=8,
                ple_embed_dim=32,
                indexer_n_heads=2,
                indexer_kv_heads=1,
                indexer_head_dim=8,
                indexer_budget=16,
                indexer_compress_ratio=4,
            )
        ),
        patches(),
    ),
    "shieldgemma2": (dict(mm_tokens_per_image=4), image(4, token_type_ids=True)),
    "step3p7": (dict(text_config=dict(sliding_window=16, num_sliding_attention_heads=4)), image(1)),
    "t5gemma2": (dict(encoder=dict(mm_tokens_per_image=4)), image(4, decoder_input_ids=tensor([[2, 5, 6]]))),
    "mistral4": ({}, image(0)),
    "udop": ({}, image(4)),
    "unlimited_ocr": (dict(vision_config=OCR_VISION), image(21, 1, 3, 128, 128)),
    "video_llama_3": ({}, image(4, 16, 192, image_grid_thw=GRID, image_merge_sizes=tensor([2]))),
    "video_llava": ({}, image(16)),
    "vision-encoder-decoder": ({}, image(0, decoder_input_ids=tensor([[2, 5, 6]]))),
}
