"""Which hold is legal for which linear; what is not is refused by name, with the way out.

| linear | legal |
| --- | --- |
| last projector linear | outputs, manifold, inputs, coupling; target remove where it is trained in full |
| other projector linears | inputs; with the other modes: frozen, pullback |
| whole projector | outputs or manifold with hold="penalty" |
| linears of the language model | inputs; its writers (o_proj, down_proj) also outputs, manifold, coupling |
| LoRA updates of these | the same without target remove; coupling with exact and decay, gains top, rank 2 or more |
| quantised linears | LoRA updates only; decay and norm_cap where the quantiser tells the values |
| everything else | frozen |

Outputs of the last projector linear are held exactly where nothing with weights comes after it.
"""

from textanchor.errors import HoldError
from textanchor.holds.filter import FilterConfig
from textanchor.holds.targets import Target
from textanchor.vlm.names import is_within
from textanchor.vlm.parts import VLMParts

WRITERS = ("o_proj", "out_proj", "down_proj", "fc2")
"""Last names of the linears that write to the residual stream, whose outputs so live in text space."""
BY_FUNCTION = "hold='penalty' with mode 'outputs' or 'manifold' holds any projector by what it gives"


def require_function(config: FilterConfig, part: str) -> None:
    """Raise HoldError where the projector's function cannot be held by hold='penalty'."""
    if part != "projector" or config.mode not in ("outputs", "manifold"):
        raise HoldError(
            "hold='penalty' is a term on what the projector gives, so it is legal for the projector with mode "
            f"'outputs' or 'manifold', not for the {part} with mode {config.mode!r}; use exact, share or decay"
        )


def require_legal(config: FilterConfig, part: str, target: Target, *, writes_text: bool) -> None:
    """Raise HoldError where `config` cannot hold a linear of that part."""
    if part == "language_model" and config.target == "remove":
        raise HoldError(
            f"{target.name}: target='remove' is legal for the last projector linear only; a language model would lose "
            "what those directions mean to it"
        )
    if part == "language_model" and config.mode != "inputs" and not writes_text:
        raise HoldError(
            f"{target.name}: mode {config.mode!r} is legal for writers to the residual stream only "
            f"({', '.join(WRITERS)}); train no other linears of the language model, or choose mode='inputs'"
        )
    if target.is_lora:
        _require_lora(config, target)
    elif target.is_quantized:
        raise HoldError(
            f"{target.name}: its weight is quantised, and a rule on all of it needs the weight itself; train LoRA on "
            "it, which is held through A and B, or load the model without quantisation"
        )


def _require_lora(config: FilterConfig, target: Target) -> None:
    if config.target == "remove":
        raise HoldError(
            f"{target.name}: target='remove' changes the weight itself, which LoRA leaves as it is and does not save; "
            "train this linear in full"
        )
    if config.mode != "coupling":
        return
    if config.hold == "share" or config.gains != "top":
        raise HoldError(
            f"{target.name}: mode='coupling' splits the rank of a LoRA update in two, one half held on each side, so a "
            f"cap on their product (hold='share') and gains of pairs are not defined, found hold={config.hold!r}, "
            f"gains={config.gains!r}; use exact or decay with gains='top', or train the linear in full"
        )
    if target.rank < 2:
        raise HoldError(
            f"{target.name}: mode='coupling' splits the rank of a LoRA update, which is 1; use rank 2 or more"
        )


def require_last(parts: VLMParts, name: str) -> None:
    """Raise HoldError where something with weights comes after the last projector linear, which rules cannot hold."""
    inside = [tensor for tensor in parts.projector_tensors if is_within(tensor, parts.projector_output)]
    own = [i for i, tensor in enumerate(inside) if is_within(tensor, name)]
    if after := inside[own[-1] + 1 :]:
        raise HoldError(
            f"{name}: {after[0]} comes after it, so its outputs are not yet the visual tokens, and no rule on its "
            f"outputs is exact; {BY_FUNCTION}, and mode='inputs' holds each linear's own inputs"
        )
