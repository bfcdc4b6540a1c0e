"""Where each model family keeps its parts, by `config.model_type`; what Transformers' own lookups find is not repeated.

Only here may a family's own word (connector, merger, aligner, resampler) be spoken; elsewhere it is the projector.
A path names a module or a bare parameter; a step `*` stands for every entry of a list, `-1` for its last one. Every
family is built and checked by tests/integration/test_families.py; docs/families.md is the list for readers.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """Paths of one family; None where the general rule (see `find_parts`) is right."""

    projector: tuple[str, ...]
    """Modules and bare parameters of the projector, in the order of the forward pass; what is missing is skipped."""
    projector_input: str | None = None
    """Linear whose inputs are the visual features, where that is not the first one."""
    projector_output: str | None = None
    """Module whose outputs are the visual tokens in text space, where that is not the last one."""
    further_outputs: tuple[str, ...] = ()
    """Further modules of the projector that write into text space, such as those that feed deeper layers."""
    vision_tower: str | None = None
    """Vision tower, where `get_encoder(modality="image")` does not give it."""
    language_model: str | None = None
    """Language model, where `get_decoder()` gives only a part of it, or a module that holds tower or projector too;
    these stay what they are."""
    not_text: tuple[str, ...] = ()
    """Modules inside the language model's that are no part of it, such as an encoder of sound."""
    lacks: str = ""
    """Which part the family lacks and why, where it, or a variant of it, has no vision tower or no projector."""


_PROJECTOR = "model.multi_modal_projector"
_PLAIN = Family(projector=(_PROJECTOR,))
_AT_TOP = Family(projector=("multi_modal_projector",))
_NAMED_PROJECTOR = Family(projector=("model.projector",))
_WITH_NEWLINE = Family(projector=(_PROJECTOR, "model.image_newline"))
_WITH_SEPARATORS = Family(projector=(_PROJECTOR, "model.image_newline", "model.view_separator"))
_CONNECTOR = Family(projector=("model.connector",))
_ALIGNER = Family(projector=("model.aligner",))
_LATENT_QUERY = Family(projector=("image_to_text_projection",))
_OUTER_MERGER = Family(projector=("model.merger",))
_MERGER = Family(projector=("model.visual.merger",))
_MERGER_IN_TOWER = Family(projector=("model.vision_tower.merger",))
_DOWNSAMPLED = Family(projector=("model.visual.downsample", "model.visual.merger"))
_DEEPSTACK = Family(
    projector=("model.visual.deepstack_merger_list", "model.visual.merger"),  # several ways into the language model
    projector_input="model.visual.merger.linear_fc1",
    further_outputs=("model.visual.deepstack_merger_list.*",),
)
_Q_FORMER = Family(
    projector=("query_tokens", "qformer", "language_projection"),
    projector_input="qformer.encoder.layer.0.crossattention.attention.key",
    language_model="language_model",
)
_EMBEDDER = Family(projector=("model.embed_vision",), projector_input="model.embed_vision.embedding_projection")
_ADAPTER_AND_NORM = Family(
    projector=("model.vision_adapter", "model.vision_projection", "model.perception_emb_norm"),
)
_CROSS_ATTENTION = (
    "it has no projector: the cross-attention of its text decoder reads the vision tower's states as they are"
)
_VQ_VAE = Family(projector=(), lacks="it has no vision tower: images become tokens of the vocabulary (model.vqmodel)")

FAMILIES = {
    "aria": Family(projector=(_PROJECTOR,), projector_input=f"{_PROJECTOR}.cross_attn.k_proj"),
    "aya_vision": _PLAIN,
    "blip": Family(projector=(), lacks=_CROSS_ATTENTION),
    "blip-2": _Q_FORMER,
    "chameleon": _VQ_VAE,
    "cohere2_vision": _PLAIN,
    "cohere_compass": _DEEPSTACK,
    "cosmos3_edge": _NAMED_PROJECTOR,
    "cosmos3_omni": _DEEPSTACK,
    "deepseek_ocr2": _WITH_SEPARATORS,
    "deepseek_vl": _ALIGNER,
    "deepseek_vl_hybrid": _ALIGNER,
    "diffusion_gemma": Family(
        vision_tower="model.encoder.vision_tower",
        projector=("model.encoder.embed_vision",),
        language_model="model",
    ),
    "dots3_note": _MERGER_IN_TOWER,
    "emu3": _VQ_VAE,
    "ernie4_5_vl_moe": Family(projector=("model.resampler_model",)),
    "evolla": Family(projector=(), lacks="it has no vision tower: it reads proteins"),
    "exaone4_5": _MERGER,
    "fast_vlm": _PLAIN,
    "florence2": _PLAIN,
    "fuyu": Family(
        projector=(),
        lacks="it has no vision tower: one linear (model.vision_embed_tokens) takes patches of pixels to text space",
    ),
    "gemma3": _PLAIN,
    "gemma3n": _EMBEDDER,
    "gemma4": _EMBEDDER,
    "gemma4_unified": Family(vision_tower="model.embed_vision", projector=("model.embed_vision.multimodal_embedder",)),
    "git": Family(
        vision_tower="git.image_encoder",
        projector=("git.img_temporal_embedding", "git.visual_projection"),
        language_model="git",
    ),
    "glm46v": _DOWNSAMPLED,
    "glm4v": _DOWNSAMPLED,
    "glm4v_moe": _DOWNSAMPLED,
    "glm5_next": _DOWNSAMPLED,
    "glm_ocr": _DOWNSAMPLED,
    "glmga": _DOWNSAMPLED,
    "got_ocr2": _PLAIN,
    "granite4_vision": Family(
        projector=("model.layerwise_projectors", "model.spatial_projectors", "model.image_newline"),
        projector_input="model.spatial_projectors.0.qformer.encoder.layer.0.crossattention.attention.key",
        projector_output="model.spatial_projectors.-1",
        further_outputs=("model.layerwise_projectors.*", "model.spatial_projectors.*"),
    ),
    "granite_docling": Family(
        projector=("model.vision_model.connector",),
        further_outputs=(
            "model.vision_model.connector.coarse.deepstack_mergers.*",
            "model.vision_model.connector.fine.deepstack_mergers.*",
        ),
    ),
    "hunyuan_vl": Family(projector=("model.vision_tower.patch_merger",)),
    "hyperclovax_vision_v2": _NAMED_PROJECTOR,
    "idefics": Family(
        projector=("model.perceiver_resampler", "model.gated_cross_attn_layers"),
        projector_output="model.gated_cross_attn_layers.-1",
        further_outputs=("model.gated_cross_attn_layers.*",),
        language_model="model",
    ),
    "idefics2": _CONNECTOR,
    "idefics3": _CONNECTOR,
    "inkling2": _MERGER_IN_TOWER,
    "inkling_mm_model": Family(projector=("model.vision_tower.encoder_layers.-1", "model.vision_tower.final_norm")),
    "instructblip": _Q_FORMER,
    "instructblipvideo": _Q_FORMER,
    "internvl": _PLAIN,
    "janus": _ALIGNER,
    "kimi_k25": Family(projector=("model.mm_projector",)),
    "kosmos-2": _LATENT_QUERY,
    "kosmos-2.5": _LATENT_QUERY,
    "lfm2_vl": _PLAIN,
    "lfm3_vl": _PLAIN,
    "lighton_ocr": Family(projector=("model.vision_projection",)),
    "llama4": _AT_TOP,
    "llava": _PLAIN,
    "llava_next": _WITH_NEWLINE,
    "llava_next_video": _WITH_NEWLINE,
    "llava_onevision": _WITH_NEWLINE,
    "minicpm_ocr": _OUTER_MERGER,
    "minicpmv4_6": _OUTER_MERGER,
    "minicpmv4_7": _OUTER_MERGER,
    "minimax_m3_vl": _PLAIN,
    "mistral3": _PLAIN,
    "mistral4": Family(projector=(), lacks="it has no vision tower: it is a language model of text alone"),
    "mistral_large4": _PLAIN,
    "mllama": _PLAIN,
    "molmo2": _PLAIN,
    "muse_glimmer": _ADAPTER_AND_NORM,
    "muse_spark": _ADAPTER_AND_NORM,
    "nemotron_h_omni": _AT_TOP,
    "ovis2": Family(
        projector=(
            "model.vision_tower.head_linear",
            "model.vision_tower.head_norm",
            "model.visual_embeddings_table",
        )
    ),
    "paddleocr_vl": _NAMED_PROJECTOR,
    "paligemma": _PLAIN,
    "perception_lm": _PLAIN,
    "phi4_multimodal": Family(
        vision_tower="model.embed_tokens_extend.image_embed.img_processor",
        projector=(
            "model.embed_tokens_extend.image_embed.sub_img_feature_extensor",
            "model.embed_tokens_extend.image_embed.global_img_feature_extensor",
            "model.embed_tokens_extend.image_embed.img_projection_up",
            "model.embed_tokens_extend.image_embed.img_projection_down",
        ),
        language_model="model",
        not_text=("model.embed_tokens_extend",),
    ),
    "pi0": Family(
        vision_tower="model.vlm.vision_tower",
        projector=("model.vlm.multi_modal_projector",),
        language_model="model.vlm.language_model",
    ),
    "pix2struct": Family(vision_tower="encoder", projector=(), language_model="decoder", lacks=_CROSS_ATTENTION),
    "pp_chart2table": _PLAIN,
    "pp_formulanet": Family(vision_tower="model.encoder", projector=("model.encoder.multi_modal_projector",)),
    "qianfan_ocr": _PLAIN,
    "qwen2_5_omni_thinker": _MERGER,
    "qwen2_5_vl": _MERGER,
    "qwen2_vl": _MERGER,
    "qwen3_5": _MERGER,
    "qwen3_5_moe": _MERGER,
    "qwen3_omni_moe_thinker": Family(
        projector=("model.visual.merger_list", "model.visual.merger"),
        projector_input="model.visual.merger.mlp.0",
        further_outputs=("model.visual.merger_list.*",),
    ),
    "qwen3_vl": _DEEPSTACK,
    "qwen3_vl_moe": _DEEPSTACK,
    "qwen4_exp": _MERGER,
    "shieldgemma2": _PLAIN,
    "smolvlm": _CONNECTOR,
    "step3p7": _PLAIN,
    "t5gemma2": Family(
        vision_tower="model.encoder.vision_tower",
        projector=("model.encoder.multi_modal_projector",),
        language_model="model",
    ),
    "udop": Family(
        projector=(), lacks="it has no vision tower: one encoder reads words and patches of pixels together"
    ),
    "unlimited_ocr": _WITH_SEPARATORS,
    "video_llama_3": _NAMED_PROJECTOR,
    "video_llava": _PLAIN,
    "vipllava": _PLAIN,
    "vision-encoder-decoder": Family(
        vision_tower="encoder", projector=("enc_to_dec_proj",), language_model="decoder", lacks=_CROSS_ATTENTION
    ),
}
