"""Tiny models of further families, by model_type, as changes to their default configurations made small."""

from torch import ones, tensor

from helpers.tiny_config import IMAGE, SLIDING, image, patches, pixels, rope
from helpers.tiny_families_shrunk_more import FLAT, GRID, MROPE, OCR_VISION, POSITIONS, SHRUNK_MORE, Shrunk

SHORT_RANGE = dict(swa_num_attention_heads=4, swa_num_key_value_heads=2, swa_head_dim=8)

SHRUNK: dict[str, Shrunk] = SHRUNK_MORE | {
    "blip": ({}, image(0)),
    "chameleon": (
        dict(
            vocabulary_map={"<image>": IMAGE, "IMGIMGAZ": 10, "IMGIMGBZ": 11},
            vq_config=dict(
                embed_dim=4,
                num_embeddings=16,
                latent_channels=32,
                resolution=32,
                base_channels=32,
                channel_multiplier=[1, 1],
                num_res_blocks=1,
            ),
        ),
        image(4),
    ),
    "cohere_compass": (
        dict(text_config=dict(rope_parameters={"sliding_attention": rope(), "full_attention": rope()}, **SLIDING)),
        patches(),
    ),
    "cosmos3_edge": (dict(text_config=MROPE, projector_hidden_size=32), FLAT),
    "cosmos3_omni": ({}, patches()),
    "deepseek_ocr2": (
        dict(
            text_config=dict(num_experts_per_tok=2, mlp_layer_types=["dense", "sparse"], n_group=1, topk_group=1),
            vision_config=OCR_VISION,
        ),
        image(145, 1, 3, 128, 128),
    ),
    "deepseek_vl_hybrid": (
        dict(
            high_res_vision_config=dict(output_channels=8, window_size=2, global_attn_indexes=[1], image_size=64),
        ),
        image(16, high_res_pixel_values=pixels(1, 3, 64, 64)),
    ),
    "diffusion_gemma": (
        dict(
            text_config=dict(num_experts=4, top_k_experts=2, moe_intermediate_size=16, **SLIDING),
            vision_config=dict(position_embedding_size=16, pooling_kernel_size=2),
            canvas_length=8,
        ),
        image(
            4,
            1,
            16,
            192,
            image_position_ids=POSITIONS,
            mm_token_type_ids=True,
        ),
    ),
    "dots3_note": (
        dict(
            text_config=dict(num_key_value_heads=4),
            vision_config=dict(
                mlp_layer_types=["dense", "sparse"],
                num_experts_per_tok=2,
                per_layer_config={1: {"num_local_experts": 4, "num_experts_per_tok": 2}},
                adapter_in_dim=32,
                adapter_out_dim=32,
            ),
            audio_config=dict(adapter_input_size=32, adapter_out_dim=32, downsample_hidden_size=16),
        ),
        FLAT,
    ),
    "emu3": (dict(vocabulary_map={"<image>": IMAGE, "<|visual token 000000|>": 10}), image(4)),
    "ernie4_5_vl_moe": (
        dict(
            text_config=dict(
                moe_intermediate_size=[16, 16],
                moe_num_experts=4,
                moe_k=2,
                rope_parameters=rope(mrope_section=[1, 1, 2]),
            )
        ),
        FLAT,
    ),
    "exaone4_5": ({}, patches()),
    "fast_vlm": (dict(vision_config=dict(hidden_size=24, model_args=None)), image(16)),
    "fuyu": ({}, image(16)),
    "gemma3n": (
        dict(
            vision_config=dict(hidden_size=24, vocab_size=8, vocab_offset=64),
            vision_soft_tokens_per_image=16,
            text_config=dict(
                hidden_size_per_layer_input=8,
                vocab_size_per_layer_input=64,
                laurel_rank=4,
                num_kv_shared_layers=0,
                **SLIDING,
            ),
            audio_config=dict(
                conf_num_hidden_layers=1,
                conf_num_attention_heads=4,
                sscp_conv_channel_size=[8, 8],
                vocab_size=8,
                vocab_offset=72,
            ),
        ),
        image(16),
    ),
    "gemma4_unified": (
        dict(
            vision_config=dict(
                model_type="gemma4_unified_vision",
                pooling_kernel_size=2,
                patch_size=4,
                mm_embed_dim=24,
                mm_posemb_size=16,
                output_proj_dims=24,
            ),
            text_config=SLIDING,
        ),
        image(
            16,
            1,
            16,
            192,
            image_position_ids=POSITIONS,
            mm_token_type_ids=True,
        ),
    ),
    "git": ({}, image(0)),
    "glm46v": (dict(text_config=MROPE), patches()),
    "glm4v_moe": (dict(text_config=dict(rope_parameters=rope(partial_rotary_factor=1.0))), patches()),
    "glm5_next": (
        dict(
            text_config=dict(
                num_key_value_heads=4,
                qk_rope_head_dim=0,
                num_hidden_layers=4,
                linear_head_dim=8,
                linear_num_heads=4,
                index_topk=16,
            ),
            vision_config=dict(projection_intermediate_size=48),
        ),
        patches(),
    ),
    "glm_ocr": (dict(text_config=MROPE), patches()),
    "glmga": (dict(text_config=MROPE), patches()),
    "granite4_vision": (
        dict(
            vision_config=dict(hidden_size=64),
            downsample_rate="1/2",
            deepstack_layer_map=[[-1, 0]],
            spatial_target_layers=[1, 2, 3, 4],
            text_config=dict(num_hidden_layers=5),
            image_grid_pinpoints=[[32, 64], [64, 32]],
        ),
        image(14, 1, 3, 3, 32, 32, image_sizes=tensor([[32, 64]])),
    ),
    "granite_docling": ({}, image(1, 1, 1, 3, 32, 32, pixel_attention_mask=ones(1, 1).bool())),
    "hunyuan_vl": (
        dict(vision_config=dict(num_key_value_heads=4), text_config=dict(head_dim=8, rope_parameters=rope())),
        image(8, 16, 192, image_grid_thw=GRID, mm_token_type_ids=True),
    ),
    "hyperclovax_vision_v2": ({}, patches()),
    "idefics": (
        dict(
            use_resampler=True,
            perceiver_config=dict(resampler_n_latents=4, resampler_depth=1, resampler_n_heads=4, resampler_head_dim=8),
            vision_config=dict(embed_dim=24),
        ),
        image(0, 1, 1, 3, 32, 32, image_attention_mask=ones(1, 7, 1).long()),
    ),
    "inkling2": (
        dict(
            text_config=SHORT_RANGE,
            vision_config=dict(projection_hidden_dim=32, posemb_grid_size=4, spatial_merge_size=2, patch_size=8),
        ),
        image(4, 4, 16, 16, 3, image_grid_thw=tensor([[1, 2, 2]])),
    ),
    "inkling_mm_model": (
        dict(
            text_config=SHORT_RANGE,
            vision_config=dict(n_layers=2, num_hidden_layers=2, patch_size=2),
            audio_config=dict(mel_vocab_size=8, n_mel_bins=4),
        ),
        image(4, 4, 2, 2, 2, 3),
    ),
    "instructblipvideo": (
        dict(num_query_tokens=4, video_token_index=IMAGE, text_config=dict(word_embed_proj_dim=32)),
        image(16, 1, 4, 3, 32, 32, qformer_input_ids=tensor([[5, 6]])),
    ),
}
