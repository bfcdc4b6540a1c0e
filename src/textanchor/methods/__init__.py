"""Methods by the name that a configuration gives them."""

METHODS = {
    "zero_shot": "textanchor.methods.zero_shot:ZeroShot",
    "full": "textanchor.methods.full:Full",
    "lora": "textanchor.methods.lora:Lora",
    "frozen_projector": "textanchor.methods.frozen_projector:FrozenProjector",
    "attention_only": "textanchor.methods.attention_only:AttentionOnly",
    "l2sp": "textanchor.methods.l2sp:L2SP",
    "ewc": "textanchor.methods.ewc:EWC",
    "lwf": "textanchor.methods.lwf:LwF",
    "replay": "textanchor.methods.replay:Replay",
    "wise_ft": "textanchor.methods.wise_ft:WiseFT",
    "norm_matched": "textanchor.methods.norm_matched:NormMatched",
    "osf": "textanchor.methods.osf:OSF",
    "corda": "textanchor.methods.corda:CorDA",
    "lora_null": "textanchor.methods.lora_null:LoRANull",
    "lorasculpt": "textanchor.methods.lorasculpt:LoRASculpt",
    "app": "textanchor.methods.app:AnchorPreservingProjection",
}
"""Name -> module and class, written out so that listing them imports nothing."""
