"""Where each model family keeps its projector: paths by `config.model_type`, in the order of the forward pass.

Only here may a family's own word (connector, merger, aligner, resampler) be spoken; elsewhere it is the projector.
A path names a module or a bare parameter. Every family listed is built and checked by tests/integration/test_parts.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """Paths of one family; None where the general rule (see `find_parts`) is right."""

    projector: tuple[str, ...]
    """Modules and bare parameters of the projector, in the order of the forward pass; a missing bare one is skipped."""
    projector_input: str | None = None
    """Linear whose inputs are the visual features, where that is not the first one."""
    projector_output: str | None = None
    """Module whose outputs are the visual tokens in text space, where that is not the last one."""
    language_model: str | None = None
    """Language model, where `get_decoder()` returns only a part of it."""


_PROJECTOR = "model.multi_modal_projector"
_PLAIN = Family(projector=(_PROJECTOR,))
_WITH_NEWLINE = Family(projector=(_PROJECTOR, "model.image_newline"))
_CONNECTOR = Family(projector=("model.connector",))
_ALIGNER = Family(projector=("model.aligner",))
_MERGER = Family(projector=("model.visual.merger",))
_DEEPSTACK = Family(
    projector=("model.visual.deepstack_merger_list", "model.visual.merger"),  # two ways into the language model
    projector_input="model.visual.merger.linear_fc1",
)
_Q_FORMER = Family(
    projector=("query_tokens", "qformer", "language_projection"),
    projector_input="qformer.encoder.layer.0.crossattention.attention.key",
    language_model="language_model",
)

FAMILIES = {
    "aria": Family(projector=(_PROJECTOR,), projector_input=f"{_PROJECTOR}.cross_attn.k_proj"),
    "aya_vision": _PLAIN,
    "blip-2": _Q_FORMER,
    "cohere2_vision": _PLAIN,
    "deepseek_vl": _ALIGNER,
    "florence2": _PLAIN,
    "gemma3": _PLAIN,
    "gemma4": Family(projector=("model.embed_vision",)),
    "glm4v": Family(projector=("model.visual.downsample", "model.visual.merger")),
    "got_ocr2": _PLAIN,
    "idefics2": _CONNECTOR,
    "idefics3": _CONNECTOR,
    "instructblip": _Q_FORMER,
    "internvl": _PLAIN,
    "janus": _ALIGNER,
    "kimi_k25": Family(projector=("model.mm_projector",)),
    "lfm2_vl": _PLAIN,
    "llava": _PLAIN,
    "llava_next": _WITH_NEWLINE,
    "llava_onevision": _WITH_NEWLINE,
    "mistral3": _PLAIN,
    "mllama": _PLAIN,
    "ovis2": Family(
        projector=(
            "model.vision_tower.head_linear",
            "model.vision_tower.head_norm",
            "model.visual_embeddings_table",
        )
    ),
    "paligemma": _PLAIN,
    "qwen2_5_vl": _MERGER,
    "qwen2_vl": _MERGER,
    "qwen3_5": _MERGER,
    "qwen3_vl": _DEEPSTACK,
    "smolvlm": _CONNECTOR,
    "vipllava": _PLAIN,
}
