"""Names of modules and parameters as in the plain model, whether or not PEFT wraps it.

PEFT changes names (`base_model.model.` in front, `.base_layer` and `.modules_to_save.default` inside) and keeps two
copies of what `modules_to_save` names. All of textanchor speaks in *base names*, those of the model before wrapping; a
base name means the module that is computed and trained now. So what is saved before wrapping is valid after it.
"""

import re
from collections.abc import Callable, Iterable

from torch import nn

PEFT_MODEL = "base_model.model."
OUTER_WRAPPERS = {
    PEFT_MODEL: "PEFT",
    "module.": "DistributedDataParallel, DataParallel, DeepSpeed, AveragedModel",
    "_forward_module.": "Lightning Fabric",
}
"""What is put before all names of a model, and by whom; inside of names these may be the model's own."""
INNER_WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FullyShardedDataParallel",
    "_fpw_module.": "FullyShardedDataParallel before torch 2",
    "_checkpoint_wrapped_module.": "torch's and FSDP's activation checkpointing",
    "base_layer.": "PEFT, of a layer that it adapts",
    "modules_to_save.*.": "PEFT, of the trained copy of a module; the adapter's name stands in the middle",
    "token_adapter.": "PEFT, of an embedding of which some rows are trained",
}
"""What is put before the name of any module, and by whom."""
_OUTER = re.compile("^(" + "|".join(map(re.escape, OUTER_WRAPPERS)) + ")")
_INNER = re.compile(r"(?:(?<=\.)|^)(" + "|".join(map(re.escape, INNER_WRAPPERS)).replace(r"\*", r"\w+") + ")")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a `PeftModel`; any other model itself."""
    get_base_model: Callable[[], nn.Module] | None = getattr(model, "get_base_model", None)
    return model if get_base_model is None or not hasattr(model, "peft_config") else get_base_model()


def base_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Base name to module, in order of registration; of a LoRA layer its base layer, of a saved one the active copy."""
    return {name: chain[-1] for name, chain in _chains(model).items()}


def peft_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Base name to the outermost PEFT layer that adapts that module (for instance a LoRA linear, with its scaling)."""
    layers: dict[str, nn.Module] = {}
    for name, chain in _chains(model).items():
        for link in chain:
            if "base_layer" in link._modules:
                layers.setdefault(name, link)
    return layers


def plain_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Base name to parameter, each once, of the modules in `base_modules`: no adapter weights, so PEFT adds no name."""
    named: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for module_name, module in base_modules(model).items():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:  # tied parameters keep their first name, as in torch
                seen.add(id(parameter))
                named[joined(module_name, name)] = parameter
    return named


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """`plain_parameters` and adapter weights, which stand under their layer: `layer.lora_A.default.weight`."""
    named = plain_parameters(model)
    seen = {id(parameter) for parameter in named.values()}
    for layer_name, layer in peft_layers(model).items():
        for name, parameter in layer.named_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                named[joined(layer_name, name)] = parameter
    return named


def name_of(model: nn.Module, module: nn.Module) -> str | None:
    """Base name of a module object (or of a PEFT wrapper around it); None where it is not part of the model."""
    return next((name for name, chain in _chains(model).items() if any(link is module for link in chain)), None)


def joined(prefix: str, name: str) -> str:
    """`prefix.name`, without a dot where the prefix is empty."""
    return f"{prefix}.{name}" if prefix else name


def is_within(name: str, paths: str | Iterable[str]) -> bool:
    """Whether `name` is one of the paths or lies below one; the empty path is the whole model."""
    paths = (paths,) if isinstance(paths, str) else paths
    return any(path in ("", name) or name.startswith(f"{path}.") for path in paths)


def without_wrappers(name: str) -> str:
    """The plain model's name of a tensor, without what OUTER_WRAPPERS and INNER_WRAPPERS put into it."""
    before = ""
    while name != before:
        before, name = name, _OUTER.sub("", _INNER.sub("", name))
    return name


def _wrapped(module: nn.Module) -> nn.Module | None:
    """What a PEFT wrapper computes with: the active copy of a saved module, the base layer of an adapted one."""
    # `_modules`, because PEFT's wrappers pass unknown attributes on to what they wrap
    children = module._modules
    copies = children.get("modules_to_save")
    if isinstance(copies, nn.ModuleDict):
        is_off = getattr(module, "disable_adapters", False)
        active = [name for name in getattr(module, "active_adapters", ()) if name in copies and not is_off]
        return copies[active[0]] if active else children["original_module"]
    inner = children.get("base_layer")
    return children.get("token_adapter") if inner is None else inner


def _chains(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Base name to [wrapper, ..., module]: what stands at that name, from the outside in."""
    chains: dict[str, list[nn.Module]] = {}
    seen: set[int] = set()

    def visit(name: str, module: nn.Module) -> None:
        chain = [module]
        while (inner := _wrapped(chain[-1])) is not None:
            chain.append(inner)
        if id(chain[-1]) in seen:
            return
        seen.add(id(chain[-1]))
        chains[name] = chain
        for child_name, child in chain[-1].named_children():
            visit(joined(name, child_name), child)

    visit("", unwrapped(model))
    return chains
