"""The parts of a vision-language model: vision tower, projector with every tensor in it, language model, embedding.

Every parameter belongs to exactly one part. A projector that lies inside the tower's module (Qwen-VL, GLM-4V, Ovis2) is
projector only, so freezing the tower does not freeze it. Names are base names: see `names.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from textanchor.errors import ModelError
from textanchor.files import read_json, write_json
from textanchor.vlm.names import base_modules, base_parameters, is_within, plain_parameters
from textanchor.vlm.search import (
    all_names,
    description,
    existing,
    family_of,
    find_embedding,
    find_head,
    find_language_model,
    find_projector,
    find_tower,
)

Part = Literal["vision_tower", "projector", "language_model", "other"]


@dataclass(frozen=True)
class VLMParts:
    """Where the parts of `model` are, by base name, and how each was found; made by `find_parts`."""

    model: nn.Module = field(repr=False, compare=False)
    vision_tower: str
    projector: tuple[str, ...]
    """Modules and bare parameters of the projector, in the order of the forward pass."""
    projector_tensors: tuple[str, ...]
    """Every parameter of the projector, adapter weights aside."""
    projector_input: str
    """Module (a linear, where there is one) whose inputs are the visual features."""
    projector_output: str
    """Module whose outputs are the visual tokens in text space."""
    further_outputs: tuple[str, ...]
    """Further modules of the projector that write into text space, for deeper layers."""
    language_model: str
    """May hold the tower and the projector, which then are no part of it."""
    not_text: tuple[str, ...]
    """Modules inside the language model's that are no part of it either."""
    input_embedding: str
    output_head: str | None
    """Linear from states to logits, tied to the embedding or not; it belongs to the language model."""
    other_tensors: tuple[str, ...]
    """Parameters of no part, such as an image generator's."""
    found_by: dict[str, str]

    def module(self, path: str) -> nn.Module:
        """Module with that base name; inside PEFT the one that is trained. ModelError where there is none."""
        modules = base_modules(self.model)
        if path not in modules:
            raise ModelError(f"{type(self.model).__name__} has no module {path!r}; names are those of the plain model")
        return modules[path]

    def projector_linears(self) -> dict[str, nn.Linear]:
        """Linears of the projector in the order of the forward pass; empty where it is a bare parameter (Gemma 3)."""
        return linears_within(base_modules(self.model), self.projector)

    def last_projector_linear(self) -> tuple[str, nn.Linear]:
        """Name and module of the linear that writes the visual tokens into text space.

        ModelError where there is none, or where its outputs are not as wide as the input embedding.
        """
        linears = self.projector_linears()
        name, width = self._last_linear(self.projector_output), self.embedding_width()
        if name is None or linears[name].out_features != width:
            what = f"{name!r} is {linears[name].out_features} wide" if name else f"{self.projector_output!r} has none"
            raise ModelError(
                f"projector {', '.join(self.projector)}: no linear writes into text space (width {width}), {what}. "
                "Hold this projector by a rule on its function (hold='penalty') or leave it frozen"
            )
        return name, linears[name]

    def text_writers(self) -> dict[str, str]:
        """The linears that write into text space, each with the module whose outputs it gives: deepstack has several.

        ModelError as `last_projector_linear`; of the further outputs those that end in no such linear are left out.
        """
        writers = {self.last_projector_linear()[0]: self.projector_output}
        linears = self.projector_linears()
        for path in self.further_outputs:
            name = self._last_linear(path)
            if name is not None and linears[name].out_features == self.embedding_width():
                writers.setdefault(name, path)
        return writers

    def _last_linear(self, path: str) -> str | None:
        return next((name for name in reversed(self.projector_linears()) if is_within(name, path)), None)

    def embedding_width(self) -> int:
        """Width D of the states that the input embedding gives."""
        weight = self.module(self.input_embedding).weight
        assert isinstance(weight, nn.Parameter)
        return weight.shape[1]

    def text_linears(self) -> dict[str, nn.Linear]:
        """Linears of the language model except the output head, by full base name, in order of registration.

        Of a linear that LoRA wraps the base layer is given. Experts stored as bare parameters are no linears, and
        neither are linears of a class that the model's own code defines (a router that also chooses).
        """
        linears = linears_within(base_modules(self.model), (self.language_model,))
        return {
            name: linear
            for name, linear in linears.items()
            if self.part_of(name) == "language_model" and not is_within(name, self.output_head or ())
        }

    def experts(self) -> dict[str, nn.Parameter]:
        """Tensors of the language model that hold all experts of a layer: (expert, out, in), or (expert, in, out).

        They are no linears, so neither LoRA on linears nor a rule reaches them.
        """
        modules = base_modules(self.model)
        return {
            name: parameter
            for name, parameter in self.parameters_of("language_model").items()
            if is_of_experts(parameter, modules.get(name.rpartition(".")[0]))
        }

    def parameters_of(self, part: Part) -> dict[str, nn.Parameter]:
        """Base name to parameter of one part, adapter weights included; the parts are disjoint and cover the model."""
        return {name: p for name, p in base_parameters(self.model).items() if self.part_of(name) == part}

    def part_of(self, name: str) -> Part:
        """The part to which the parameter or module with that base name belongs."""
        if is_within(name, self.projector):
            return "projector"
        if is_within(name, self.vision_tower):
            return "vision_tower"
        if is_within(name, self.not_text):
            return "other"
        text = (self.language_model, self.input_embedding, self.output_head)
        return "language_model" if is_within(name, (path for path in text if path is not None)) else "other"

    def to_dict(self) -> dict[str, Any]:
        """All but the model, as plain values for JSON."""
        shallow = {name: value for name, value in vars(self).items() if name != "model"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in shallow.items()}

    @classmethod
    def from_dict(cls, model: nn.Module, values: dict[str, Any]) -> "VLMParts":
        """Parts of `model` as stored by `to_dict`; ModelError where keys or tensors are not those of this model."""
        expected = {name for name in cls.__dataclass_fields__ if name != "model"}
        if values.keys() != expected:
            raise ModelError(f"stored parts: expected the keys {', '.join(sorted(expected))}; run find_parts again")
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        parts = cls(model=model, **fields)
        missing = set(parts.projector_tensors) - set(parts.parameters_of("projector"))
        if missing:
            raise ModelError(
                f"these parts belong to another model: {type(model).__name__} has no {', '.join(sorted(missing))}; "
                "run find_parts on it again"
            )
        return parts

    def save(self, path: Path | str) -> None:
        """Write the paths, not the model, as JSON."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path | str, model: nn.Module) -> "VLMParts":
        """Read what `save` wrote, for `model`."""
        return cls.from_dict(model, read_json(path))

    def __str__(self) -> str:
        from textanchor.vlm.parts_table import parts_table

        return parts_table(self)


def find_parts(
    model: nn.Module,
    *,
    vision_tower: str | None = None,
    projector: str | Sequence[str] | None = None,
    language_model: str | None = None,
) -> VLMParts:
    """Parts of a Transformers vision-language model, plain or wrapped by PEFT.

    Tower and language model: what the user names (base names of modules or parameters), else Transformers' lookups.
    Projector: what the user names, else the table in `families.py`, else the only module outside the other parts.
    ModelError names the way out where a part is missing or not plain to see.
    """
    outer = find_outer_parts(model, vision_tower=vision_tower, language_model=language_model)
    known = [outer.vision_tower, outer.language_model, outer.input_embedding, outer.output_head]
    paths, how = find_projector(model, projector, [path for path in known if path is not None])
    entry, output, further = _ends(model, paths)
    parts = replace(
        outer,
        projector=tuple(paths),
        projector_tensors=tuple(name for name in plain_parameters(model) if is_within(name, paths)),
        projector_input=entry,
        projector_output=output,
        further_outputs=further,
        found_by=outer.found_by | {"projector": how},
    )
    empty = [part for part in ("vision_tower", "projector", "language_model") if not parts.parameters_of(part)]
    if empty:
        raise ModelError(
            f"{description(model)}: {' and '.join(empty)} would have no parameters of its own with "
            f"vision_tower={parts.vision_tower!r}, projector={paths}, language_model={parts.language_model!r}; name "
            "paths that do not overlap"
        )
    return _with_others(parts)


def find_outer_parts(
    model: nn.Module, *, vision_tower: str | None = None, language_model: str | None = None
) -> VLMParts:
    """All parts but the projector, for what needs none: its tensors count to the part in which they lie, or to none.

    ModelError as `find_parts`.
    """
    tower, tower_how = find_tower(model, vision_tower)
    text, text_how = find_language_model(model, language_model, tower)
    embedding, embedding_how = find_embedding(model, text)
    head, head_how = find_head(model, text)
    family, _ = family_of(model)
    not_text = [name for path in family.not_text for name in existing(all_names(model), path)] if family else []
    found_by = {
        "vision_tower": tower_how,
        "language_model": text_how,
        "input_embedding": embedding_how,
        "output_head": head_how,
    }
    return _with_others(
        VLMParts(
            model=model,
            vision_tower=tower,
            projector=(),
            projector_tensors=(),
            projector_input="",
            projector_output="",
            further_outputs=(),
            language_model=text,
            not_text=tuple(not_text),
            input_embedding=embedding,
            output_head=head,
            other_tensors=(),
            found_by=found_by,
        )
    )


def _with_others(parts: VLMParts) -> VLMParts:
    names = plain_parameters(parts.model)
    return replace(parts, other_tensors=tuple(name for name in names if parts.part_of(name) == "other"))


def _ends(model: nn.Module, paths: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
    """Module whose inputs are the visual features, the one whose outputs are the visual tokens, and further outputs."""
    modules, (family, _) = base_modules(model), family_of(model)
    inner = [path for path in paths if path in modules]
    output = inner[-1] if inner else paths[-1].rpartition(".")[0]
    entry = next(iter(linears_within(modules, paths)), output)
    if family is None:
        return entry, output, ()

    def listed(path: str | None) -> list[str]:
        # the table's word counts only where it speaks of the projector that was found
        return [name for name in existing(list(modules), path or "") if path and is_within(name, paths)]

    entry, output = ([*listed(family.projector_input), entry][0], [*listed(family.projector_output), output][0])
    further = [name for path in family.further_outputs for name in listed(path) if name != output]
    return entry, output, tuple(further)


def is_of_experts(parameter: nn.Parameter, owner: nn.Module | None) -> bool:
    """Whether a parameter of module `owner` holds several experts: Transformers ends the names of such classes so."""
    return parameter.ndim == 3 and type(owner).__name__.endswith("Experts")


def linears_within(modules: dict[str, nn.Module], paths: Iterable[str]) -> dict[str, nn.Linear]:
    """The `nn.Linear` modules at or below each path, path by path.

    Those inside `nn.MultiheadAttention` are left out: torch reads their weights without calling them. So are those that
    the model's code makes more of by a class of its own (Llama 4's router gives scores and logits).
    """
    attentions = tuple(name for name, module in modules.items() if isinstance(module, nn.MultiheadAttention))
    # Transformers defines a model's special linears in the file of its models; quantised ones come from elsewhere
    model_files = {type(module).__module__ for module in modules.values() if hasattr(module, "main_input_name")}
    return {
        name: module
        for path in paths
        for name, module in modules.items()
        if isinstance(module, nn.Linear)
        and type(module).__module__ not in model_files
        and is_within(name, path)
        and not is_within(name, attentions)
    }
