"""Which hold is legal for which linear; what is not is refused by name, with the way out.

| linear | legal |
| --- | --- |
| last projector linear (deepstack: all) | outputs, manifold, inputs, coupling; target remove if trained in full |
| other projector linears | inputs; with the other modes: frozen, pullback |
| whole projector | outputs or manifold with hold="penalty" |
| linears of the language model | inputs |
| its writers (o_proj, down_proj) | also outputs, manifold, coupling; its other linears are then frozen |
| LoRA updates of these | the same without target remove; coupling with exact and decay, gains top, rank 2 or more |
| quantised linears | LoRA updates only; decay and norm_cap where the quantiser tells the values |
| everything else | frozen |

Outputs of the last projector linear are held exactly where nothing with weights comes after it.
"""

from collections.abc import Iterable

from textanchor.errors import HoldError
from textanchor.holds.filter import FilterConfig
from textanchor.holds.targets import Target
from textanchor.vlm.names import is_within
from textanchor.vlm.parts import VLMParts

WRITERS = ("o_proj", "out_proj", "down_proj", "fc2")
"""Last names of the linears that write to the residual stream, whose outputs so live in text space."""
BY_FUNCTION = "hold='penalty' with mode 'outputs' or 'manifold' holds any projector by what it gives"


def require_part(config: FilterConfig, part: str) -> None:
    """Raise HoldError where `config` cannot hold anything of that part."""
    if config.hold == "penalty" and (part != "projector" or config.mode not in ("outputs", "manifold")):
        raise HoldError(
            "hold='penalty' is a term on what the projector gives, so it is legal for the projector with mode "
            f"'outputs' or 'manifold', not for the {part} with mode {config.mode!r}; use exact, share or decay"
        )
    if part == "language_model" and config.target == "remove":
        raise HoldError(
            f"{part}: target='remove' is legal for the last projector linear only; a language model would lose what "
            "those directions mean to it"
        )
    if part == "language_model" and config.inner == "pullback":
        raise HoldError(
            f"{part}: inner='pullback' is legal for the projector only, whose linears lie one after the other; the "
            f"linears of a language model that do not write to the residual stream are frozen under mode "
            f"{config.mode!r}: set inner='frozen', or mode='inputs', which holds them all"
        )


def writes_text(name: str) -> bool:
    """Whether a linear of the language model, by its base name, writes to the residual stream."""
    return name.rpartition(".")[2] in WRITERS


def held_text_linears(config: FilterConfig, names: Iterable[str]) -> list[str]:
    """The linears of the language model that train under `config`; HoldError where none of `names` does."""
    names = list(names)
    held = [name for name in names if config.mode == "inputs" or writes_text(name)]
    if not held:
        kinds = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in names)) or "none"
        raise HoldError(
            f"language_model: mode {config.mode!r} is legal for writers to the residual stream only "
            f"({', '.join(WRITERS)}), and none of them is trained, but {kinds}; train such linears, or choose "
            "mode='inputs', which holds any"
        )
    return held


def require_legal(config: FilterConfig, target: Target) -> None:
    """Raise HoldError where `config` cannot hold what is trained of that linear."""
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
    """Raise HoldError where something with weights comes after a writer into text space, which rules cannot hold."""
    inside = [tensor for tensor in parts.projector_tensors if is_within(tensor, parts.text_writers()[name])]
    own = [i for i, tensor in enumerate(inside) if is_within(tensor, name)]
    if after := inside[own[-1] + 1 :]:
        raise HoldError(
            f"{name}: {after[0]} comes after it, so its outputs are not yet the visual tokens, and no rule on its "
            f"outputs is exact; {BY_FUNCTION}, and mode='inputs' holds each linear's own inputs"
        )
