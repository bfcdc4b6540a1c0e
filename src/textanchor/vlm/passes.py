"""Texts through the language model and images through vision tower and projector, in every family.

A batch is a list of images, which the processor prepares, or a mapping of the model's own inputs, prepared by the user.
A batch with a text passes the model's own forward pass. Images alone pass `get_image_features` where the model has it
and it reaches the projector; where it ends at the tower (Llama 4), the forward pass over placeholders alone follows.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.errors import DataError, ModelError
from textanchor.vlm.chat import REFUSALS, process, render_chat
from textanchor.vlm.logits import without_logits
from textanchor.vlm.names import is_within, unwrapped
from textanchor.vlm.parts import VLMParts
from textanchor.vlm.search import description

ImageBatch = Sequence[Any] | Mapping[str, Any]
"""Images (PIL, RGB), or the inputs of one forward pass by name."""

OWN_INPUTS = "give each batch as a mapping of the inputs of model(**batch), such as input_ids and pixel_values"


def run_texts(parts: VLMParts, ids_BL: Tensor, mask_BL: Tensor) -> None:
    """Run the language model on texts alone; ModelError where it takes none without an image."""
    language_model = parts.module(parts.language_model)
    inputs = {"input_ids": ids_BL, "attention_mask": mask_BL, "use_cache": False}
    config: Any = getattr(language_model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        # what Bart makes itself and others ask for; T5Gemma 2 has no start token, and begins with its first one
        start_id = getattr(config, "decoder_start_token_id", None)
        start_B1 = ids_BL[:, :1] if start_id is None else torch.full_like(ids_BL[:, :1], start_id)
        inputs["decoder_input_ids"] = torch.cat([start_B1, ids_BL[:, :-1]], dim=1)
    _told(parts.model, language_model, inputs, "its language model takes no text alone", "leave it out: linears=[]")


def is_prepared(images: Sequence[Any] | None) -> bool:
    """Whether the entries are batches of the model's own inputs, and not images."""
    return bool(images) and isinstance(images[0], Mapping)


def image_batches(images: Sequence[Any], size: int) -> list[ImageBatch]:
    """Images in batches of `size`; batches of the model's own inputs as they are. DataError where both are given."""
    if is_prepared(images):
        if not all(isinstance(batch, Mapping) for batch in images):
            raise DataError("images: mappings of the model's inputs and images are mixed; give one kind")
        return list(images)
    return [images[start : start + size] for start in range(0, len(images), size)]


def image_inputs(parts: VLMParts, processor: Any, images: ImageBatch) -> dict[str, Any]:
    """Inputs of `run_images`, on the model's device and in the tower's type.

    ModelError where the processor has no image processor, or where the family needs a text and it writes none.
    """
    if isinstance(images, Mapping):
        return _placed(parts, images)
    image_processor = getattr(processor, "image_processor", None)
    if image_processor is None:
        raise ModelError(f"{type(processor).__name__} has no image_processor, so it prepares no images; {OWN_INPUTS}")
    if not _feature_methods(parts.model):
        return prompt_inputs(parts, processor, images, [""] * len(images))
    return _placed(parts, image_processor(images=list(images), return_tensors="pt"))


def prompt_inputs(parts: VLMParts, processor: Any, images: ImageBatch, questions: Sequence[str]) -> dict[str, Any]:
    """Inputs of a forward pass over one prompt for each image; a batch that is prepared holds its own questions."""
    if isinstance(images, Mapping):
        if "input_ids" not in images:
            raise DataError(f"a batch of images with questions has no input_ids, found {', '.join(images)}")
        return {"attention_mask": torch.ones_like(images["input_ids"])} | _placed(parts, images)
    prompts = [_prompt(processor, question) for question in questions]
    begin = getattr(processor.tokenizer, "bos_token", None)
    adds_begin = begin is None or not prompts[0].startswith(begin)
    options = {"return_tensors": "pt", "padding": True, "add_special_tokens": adds_begin}
    return _placed(parts, process(processor, images=[[image] for image in images], text=prompts, **options))


def run_images(parts: VLMParts, inputs: Mapping[str, Any]) -> Any:
    """Run tower and projector on a batch; what `get_image_features` gave where it was the way, else None.

    ModelError where the model refuses the batch, or where its projector does not run on it.
    """
    num_calls = 0

    def count(*_: Any) -> None:
        nonlocal num_calls
        num_calls += 1

    handle = parts.module(parts.projector_output).register_forward_hook(count)
    try:
        if "input_ids" in inputs:
            given = _run_up_to_language_model(parts, inputs)
        else:
            given = _image_features(parts.model, inputs)
            if not num_calls:
                given = _run_up_to_language_model(parts, _with_placeholders(parts.model, inputs, given))
    finally:
        handle.remove()
    if not num_calls:
        raise ModelError(
            f"{description(parts.model)}: the projector ({parts.projector_output}) does not run on the inputs "
            f"{', '.join(inputs)}; {OWN_INPUTS}"
        )
    return given


def _prompt(processor: Any, question: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    way_out = f"set processor.chat_template to the template of the model, or {OWN_INPUTS}"
    return render_chat(processor, messages, add_generation_prompt=True, way_out=way_out)


def _placed(parts: VLMParts, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors on the tower's device; those of numbers with a fraction in the type that it computes in."""
    tower = list(parts.parameters_of("vision_tower").values())
    dtype = next((parameter.dtype for parameter in tower if parameter.is_floating_point()), None)
    return {
        name: value.to(tower[0].device, dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in inputs.items()
    }


def _feature_methods(model: nn.Module) -> list[Callable[..., Any]]:
    """`get_image_features` of the model and of the one inside its heads, where they have it."""
    methods = (getattr(owner, "get_image_features", None) for owner in _with_and_without_heads(model))
    return [method for method in methods if method is not None]


def _with_and_without_heads(model: nn.Module) -> list[nn.Module]:
    plain: Any = unwrapped(model)
    inner = getattr(plain, getattr(plain, "base_model_prefix", "") or "model", None)
    return [plain] if inner is None else [plain, inner]


def _image_features(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """What the method gives that names most of the inputs."""
    methods = {method: inspect.signature(method).parameters for method in _feature_methods(model)}
    complete = [m for m, parameters in methods.items() if all(p in inputs for p in _required(parameters))]
    if not complete:
        missing = [name for parameters in methods.values() for name in _required(parameters) if name not in inputs]
        what = f"get_image_features also takes {', '.join(missing)}" if methods else "it has no get_image_features"
        raise ModelError(f"{description(model)}: {what}, so images alone do not pass its projector; {OWN_INPUTS}")
    method = max(complete, key=lambda m: len(methods[m].keys() & inputs.keys()))
    names = set(methods[method])
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in methods[method].values()):
        names |= _forward_names(model)  # what the tower is given by other names; not what is for the processor alone
    return _told(model, method, {name: value for name, value in inputs.items() if name in names})


def _required(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    any_number = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [name for name, p in parameters.items() if p.default is p.empty and p.kind not in any_number]


def _forward_names(model: nn.Module) -> set[str]:
    owners = _with_and_without_heads(model)
    return {name for owner in owners for name in inspect.signature(owner.forward).parameters}


def _with_placeholders(model: nn.Module, inputs: Mapping[str, Any], features: Any) -> dict[str, Any]:
    """The images with a text of placeholders alone, one for each feature that the tower gave."""
    config = getattr(unwrapped(model), "config", None)
    ids = [getattr(config, name, None) for name in ("image_token_id", "image_token_index")]
    token_id = next((token_id for token_id in ids if token_id is not None), None)
    states = getattr(features, "pooler_output", None)
    states = getattr(features, "last_hidden_state", None) if states is None else states
    if token_id is None or not isinstance(states, Tensor):
        raise ModelError(f"{description(model)}: get_image_features does not reach the projector; {OWN_INPUTS}")
    ids_1L = torch.full((1, states.numel() // states.shape[-1]), token_id, device=states.device)
    return {"input_ids": ids_1L, "attention_mask": torch.ones_like(ids_1L), **inputs}


class _LanguageModelBegins(Exception):
    """Ends a forward pass whose projector has run."""


def _run_up_to_language_model(parts: VLMParts, inputs: Mapping[str, Any]) -> None:
    """The model's own forward pass, ended where the language model begins if that holds no other part."""
    model: Any = unwrapped(parts.model)
    takes = inspect.signature(model.forward).parameters
    options = without_logits(model) | ({"use_cache": False} if "use_cache" in takes else {})
    with _ending_at_language_model(parts), suppress(_LanguageModelBegins):
        _told(model, model, {**inputs, **options})


@contextmanager
def _ending_at_language_model(parts: VLMParts) -> Iterator[None]:
    if any(is_within(path, parts.language_model) for path in (parts.vision_tower, *parts.projector)):
        yield
        return

    def end(*_: Any) -> None:
        raise _LanguageModelBegins

    handle = parts.module(parts.language_model).register_forward_pre_hook(end)
    try:
        yield
    finally:
        handle.remove()


def _told(
    model: nn.Module,
    function: Callable[..., Any],
    inputs: Mapping[str, Any],
    what: str = "the model refuses the batch",
    way_out: str = OWN_INPUTS,
) -> Any:
    """`function(**inputs)`; what the model's own code refuses is told with the names of what it was given."""
    try:
        return function(**inputs)
    except torch.OutOfMemoryError:  # a RuntimeError that says itself what to do
        raise
    except REFUSALS as error:
        raise ModelError(
            f"{description(model)}: {what} ({type(error).__name__}: {error}). It was given {', '.join(inputs)}; "
            f"{way_out}"
        ) from error
