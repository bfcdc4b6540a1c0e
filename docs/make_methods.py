# ruff: noqa: E501 -- the rows of Markdown tables cannot be broken
"""Writes docs/methods.md from the methods' own docstrings: python docs/make_methods.py

A contract test compares the page with what this gives.
"""

import ast
import dataclasses
import importlib
import inspect
import itertools
from pathlib import Path

from textanchor.methods import METHODS
from textanchor.training.method import AbstractMethod

PAGE = Path(__file__).with_name("methods.md")
HEAD = """\
# Methods

Ways of tuning that one line of the configuration selects: `method: {name: ewc, strength: 10}`, or
`--set method.name=wise_ft` on the command line. Data, data order, trainer, budget, export and audit are the same for all;
what is trained in each part is `parts`, whose default depends on the method. Written by `docs/make_methods.py` from the
classes in `textanchor.methods`.

*Needs* is what a method asks for beside the training data: nothing; text; unlabelled reference images;
reference questions (such images with a question each, without answers); or old data (questions with images and answers of
what is to be kept). Compare methods within one class.

| method | needs | what it does |
| --- | --- | --- |
"""
ARMS = """\
## Arms that are settings, not methods

| arm | line of the configuration |
| --- | --- |
| low learning rate | `parts.projector.learning_rate` and `parts.language_model.learning_rate`, such as a tenth of the default |
| early stopping | no run of its own: every run can be scored at log-spaced steps (`CheckpointScorer`), and stopping early is the choice of a point on that curve; `training.max_steps` with `training.scheduler: constant` makes one of them the end |
| LoRA with weight decay 0.3 | `method: {name: lora}` and `training.weight_decay: 0.3` (AdamW's decoupled decay on A and B; configs/adapt_lora_decay.yaml) |
| gentler on one half | a learning rate, `train: lora` or `train: frozen` for that part alone |
| random, bottom-text and other bases | `method: {name: app}` with another basis in its filters |

## Not reproduced

| method | why |
| --- | --- |
| SPIDER (arXiv 2411.10928) | its repository holds a README and no code, and no complete formula was in our reach |
| Model-Dowser (arXiv 2602.04509) | no code; the score is known, the synthetic prompts and probes that it is estimated with are not |
| LoRASculpt's sparse masks (arXiv 2503.16843) | only its regulariser is here: the masks change what LoRA can learn, which is another question |

## Traps, and what guards against them

| trap | guard |
| --- | --- |
| parameters that train and are not saved | the saved folder is loaded again and compared, tensor by tensor and by its logits; an error names what came back different |
| LoRA targets that also hit the vision tower by name | targets are full module names of one part, and the layers that PEFT adapted are compared with them |
| `modules_to_save` that overlap LoRA's targets | a model that PEFT wraps already is refused; in the `peft` export a part is under LoRA or saved whole, never both |
| tied embeddings | trained once and saved tied; the `peft` export refuses to untie them |
| adapters that do not start at zero (CorDA, LoRA-Null) | their start is taken from the base layer and counts as part of W0 in audit and drift; holds and the `peft` export refuse them |
"""


def page() -> str:
    """The whole page."""
    methods = {name: _method(target) for name, target in METHODS.items()}
    rows = [f"| [`{name}`](#{name}) | {_needs(cls)} | {_title(cls)} |\n" for name, cls in methods.items()]
    return HEAD + "".join(rows) + "\n" + "\n".join(_section(name, cls) for name, cls in methods.items()) + "\n" + ARMS


def _method(target: str) -> type[AbstractMethod]:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _title(cls: type) -> str:
    """The module's first line, without the full stop."""
    return (inspect.getdoc(inspect.getmodule(cls)) or "").partition("\n")[0].rstrip(".")


def _needs(cls: type[AbstractMethod]) -> str:
    """First sentence of the property's docstring."""
    return (inspect.getdoc(cls.needs) or "").partition(".")[0].lower()


def _section(name: str, cls: type[AbstractMethod]) -> str:
    text = f"## {name}\n\n{_title(cls)}.\n\n{inspect.getdoc(cls)}\n"
    options = "".join(_options(cls, "", set()))
    return text + (f"\n| option | default | meaning |\n| --- | --- | --- |\n{options}" if options else "")


def _options(cls: type, prefix: str, seen: set[type]) -> list[str]:
    """A row for each field, inherited ones first, those of nested configurations below it."""
    owners = [owner for owner in reversed(cls.__mro__) if dataclasses.is_dataclass(owner)]
    return [row for owner in owners for row in _own_options(owner, prefix, seen)]


def _own_options(cls: type, prefix: str, seen: set[type]) -> list[str]:
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    rows: list[str] = []
    hints = inspect.get_annotations(cls, eval_str=True)
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    for statement, following in itertools.pairwise(body.body):
        if isinstance(statement, ast.AnnAssign) and getattr(statement.target, "id", None) in defaults:
            assert isinstance(statement.target, ast.Name)
            meaning = ast.literal_eval(following.value) if isinstance(following, ast.Expr) else ""
            key, default = statement.target.id, defaults[statement.target.id]
            shown = "required" if default is dataclasses.MISSING else "-" if default is None else f"`{default}`"
            rows.append(f"| `{prefix}{key}` | {shown} | {' '.join(meaning.split())} |\n".replace(" | : ", " | "))
            for inner in _configs(hints[key]):
                if inner not in seen:
                    rows += _options(inner, f"{prefix}{key}.", seen | {inner})
    return rows


def _configs(hint: object) -> list[type]:
    choices = getattr(hint, "__args__", (hint,))
    return [choice for choice in choices if isinstance(choice, type) and dataclasses.is_dataclass(choice)]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
