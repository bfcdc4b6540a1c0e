"""Methods by the name that a configuration gives them."""

METHODS = {
    "full": "textanchor.methods.full:Full",
    "lora": "textanchor.methods.lora:Lora",
    "l2sp": "textanchor.methods.l2sp:L2SP",
    "app": "textanchor.methods.app:AnchorPreservingProjection",
}
"""Name -> module and class, written out so that listing them imports nothing."""
