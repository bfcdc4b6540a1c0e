"""Stream the states at the ends of modules while a model runs, as (N, D) matrices, without keeping any.

One call of `run` is one batch: `capture_inputs(model, names, lambda: model(**batch), consume, token_mask=mask)`.
Linears that receive the same tensor (query, key and value; gate and up) are captured once. Hooks are always removed.

Shape legend: B batch, L tokens, N states (all tokens that the mask selects), D width of a state.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from textanchor.errors import ModelError
from textanchor.vlm.names import base_modules, unwrapped
from textanchor.vlm.parts import VLMParts

Consume = Callable[[str, Tensor], None]
"""Called with a name and its (N, D) states, detached, in the dtype and on the device of the model."""


def capture_inputs(
    model: nn.Module,
    module_names: Iterable[str],
    run: Callable[[], object],
    consume: Consume,
    *,
    token_mask: Tensor | None = None,
) -> dict[str, str]:
    """Stream the inputs of the named modules (base names) during `run()`; return name -> name it was consumed under.

    Modules that receive one tensor share one call of `consume`, under the name that ran first. Modules that did not run
    (cross-attention without an image) are absent from the result. `token_mask`, bool (B, L), selects rows and must fit
    every input: ModelError otherwise, as for an unknown name.
    """
    shared = _SharedInputs()

    def pre_hook(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensor = _first_tensor(name, (*args, *kwargs.values()))
            if shared.is_source(name, tensor):
                consume(name, _rows(name, tensor, token_mask))

        return hook

    modules = _require_modules(model, module_names)
    with _removed_after() as handles:
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(pre_hook(name), with_kwargs=True))
        run()
    return shared.source_of


def capture_outputs(
    model: nn.Module,
    module_names: Iterable[str],
    run: Callable[[], object],
    consume: Consume,
    *,
    token_mask: Tensor | None = None,
) -> None:
    """Stream the outputs of the named modules (base names) during `run()`; of several outputs the first tensor."""

    def post_hook(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            # an embedding that is fed soft tokens (Ovis 2) is also called with ids; a look-up is no state of the image
            if not (args and isinstance(args[0], Tensor) and not args[0].is_floating_point()):
                consume(name, _rows(name, _first_tensor(name, output), token_mask))

        return hook

    modules = _require_modules(model, module_names)
    with _removed_after() as handles:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(post_hook(name)))
        run()


def capture_projector(parts: VLMParts, run: Callable[[], object], consume: Consume) -> None:
    """Stream what enters and what leaves the projector during `run()`: `consume("inputs" or "outputs", states_ND)`.

    Inputs are those of `parts.projector_input`, outputs those of `parts.projector_output`: the visual tokens.
    """

    def run_with_inputs() -> None:
        capture_inputs(parts.model, [parts.projector_input], run, lambda _, states_ND: consume("inputs", states_ND))

    capture_outputs(
        parts.model, [parts.projector_output], run_with_inputs, lambda _, states_ND: consume("outputs", states_ND)
    )


def token_mask(inputs: Mapping[str, Any], which: Literal["all", "text", "visual"], visual_ids: Sequence[int]) -> Tensor:
    """Bool (B, L): positions that are no padding and hold any token, a text token or an image placeholder."""
    ids_BL: Tensor = inputs["input_ids"]
    attention_BL = inputs.get("attention_mask")
    real_BL = torch.ones_like(ids_BL, dtype=torch.bool) if attention_BL is None else attention_BL.bool()
    if which == "all":
        return real_BL
    visual_BL = torch.isin(ids_BL, torch.tensor(list(visual_ids), device=ids_BL.device))
    return real_BL & (visual_BL if which == "visual" else ~visual_BL)


def visual_token_ids(model: nn.Module) -> tuple[int, ...]:
    """Ids of the placeholders that image (and video) features replace, from the configuration; ModelError if none."""
    config = getattr(unwrapped(model), "config", None)
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    ids = {token_id for name in names if (token_id := getattr(config, name, None)) is not None}
    if not ids:
        raise ModelError(
            f"{type(model).__name__}: its configuration has none of {', '.join(names)}, so image tokens cannot be told "
            "from text; set model.config.image_token_id"
        )
    return tuple(sorted(ids))


class _SharedInputs:
    """Which modules receive the same tensor: the same object, unchanged since the first of them saw it."""

    def __init__(self) -> None:
        self.source_of: dict[str, str] = {}
        self._seen: dict[int, tuple[weakref.ref[Tensor], int | None, str]] = {}

    def is_source(self, name: str, tensor: Tensor) -> bool:
        """Note that `name` received `tensor`; False where another module has received it before."""
        version = None if tensor.is_inference() else tensor._version
        reference, seen_version, source = self._seen.get(id(tensor), (None, None, name))
        # an id is used again once its tensor is gone, hence the weak reference; inference tensors have no version, so
        # a change in place would go unseen: they are never taken as shared
        is_same = reference is not None and reference() is tensor and version is not None and version == seen_version
        source = source if is_same else name
        if self.source_of.setdefault(name, source) != source:
            raise ModelError(
                f"{name}: its inputs are those of {self.source_of[name]!r} in one call and those of {source!r} in "
                "another; capture it in a call of its own"
            )
        if source == name:
            self._seen[id(tensor)] = (weakref.ref(tensor), version, name)
        return source == name


def _require_modules(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    modules, names = base_modules(model), list(names)
    missing = [name for name in names if name not in modules]
    if missing:
        raise ModelError(
            f"{type(model).__name__} has no module {', '.join(missing)}; names are those of the plain model, as in "
            "model.named_modules() before PEFT wraps it"
        )
    return {name: modules[name] for name in names}


def _first_tensor(name: str, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    values = values.values() if isinstance(values, Mapping) else values
    found = next((value for value in values if isinstance(value, Tensor)), None)
    if found is None:
        raise ModelError(f"{name}: no tensor among what it was given or gave; capture another module")
    return found


def _rows(name: str, states: Tensor, mask_BL: Tensor | None) -> Tensor:
    states_ND = states.detach().reshape(-1, states.shape[-1])
    if mask_BL is None:
        return states_ND
    if mask_BL.numel() != len(states_ND):
        raise ModelError(
            f"{name}: its states {tuple(states.shape)} do not fit the token mask {tuple(mask_BL.shape)}; a mask is for "
            "modules of the language model that see every token (not for routed experts, the projector or the tower)"
        )
    is_chosen_N = mask_BL.reshape(-1).to(states_ND.device)
    return states_ND if bool(is_chosen_N.all()) else states_ND[is_chosen_N]


@contextmanager
def _removed_after() -> Iterator[list[RemovableHandle]]:
    handles: list[RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()
