"""Kinds of faults in what a command is given: configurations, models, output places, options."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from helpers.faulty.fault import Fault, kind
from helpers.faulty.options import OPTIONS
from helpers.faulty.study import COMMANDS, OUTPUT
from helpers.faulty.values import (
    at,
    damaged_json,
    damaged_weights,
    damaged_yaml,
    misspelt,
    places,
    removed,
    replaced,
)

CONFIGURATION = {"adapt": "own.yaml", "compare": "matrix.yaml", "repair": "plan.yaml"}


def _with_output(verb: str, output: str) -> list[str]:
    arguments, option = list(COMMANDS[verb]), OUTPUT.get(verb, "--out")
    if option in arguments:
        arguments[arguments.index(option) + 1] = output
        return arguments
    return [*arguments, option, output]


def _write_yaml(path: Path, content: Any) -> None:
    path.write_text(yaml.safe_dump(content))


# configurations


@kind
def configuration_text(verb: str, place: Path, chance: random.Random) -> Fault:
    """A configuration that is no YAML, or YAML that no configuration is."""
    file = place / CONFIGURATION[verb]
    file.write_bytes(damaged_yaml(file.read_text(), chance))
    return Fault(COMMANDS[verb], file.name)


@kind
def configuration_key(verb: str, place: Path, chance: random.Random) -> Fault:
    """A key with a letter too many."""
    file = place / CONFIGURATION[verb]
    content = yaml.safe_load(file.read_text())
    path = chance.choice([path for path in places(content) if isinstance(path[-1], str)])
    key = misspelt(str(path[-1]), chance)
    changed = removed(content, path)
    at(changed, path[:-1])[key] = at(content, path)
    _write_yaml(file, changed)
    return Fault(COMMANDS[verb], key)


@kind
def configuration_type(verb: str, place: Path, chance: random.Random) -> Fault:
    """A value of a type that no key takes."""
    file = place / CONFIGURATION[verb]
    content = yaml.safe_load(file.read_text())
    path = chance.choice([path for path in places(content) if path[-1] != "name"])
    _write_yaml(file, replaced(content, path, chance.choice([{"nonsense": [{"a": 1}]}, [[["x"]]], -7.5, {"a": {}}])))
    return Fault(COMMANDS[verb], file.name)


@kind
def configuration_number(verb: str, place: Path, chance: random.Random) -> Fault:
    """A number that no key takes."""
    file = place / CONFIGURATION[verb]
    content = yaml.safe_load(file.read_text())
    paths = [path for path in places(content) if type(at(content, path)) in (int, float)]
    numbers = [-7, -1e300, float("nan"), float("inf"), 10**30, 10**400]
    _write_yaml(file, replaced(content, chance.choice(paths), chance.choice(numbers)))
    return Fault(COMMANDS[verb], file.name)


@kind
def setting(verb: str, place: Path, chance: random.Random) -> Fault:
    """A change of one key on the command line that means nothing, or nothing possible."""
    key, value = chance.choice(
        [
            ("training.max_steps", "1000000000"),
            ("training.max_steps", "0"),
            ("training.epochs", "1"),
            ("training.epochs", "1e9"),
            ("training.batch_size", "1000000000000"),
            ("training.save_steps", "-1"),
            ("training.seed", "-1"),
            ("training.seed", str(2**32)),
            ("training.warmup", "1.5"),
            ("training.report_to", "[nobody]"),
            ("training.report_to", "nobody"),
            ("training.precision", "float8"),
            ("data.num_images", "1000000000"),
            ("data.path", "nowhere.json"),
            ("data.path", "."),
            ("data.image_folder", "nowhere"),
            ("data.chat_template", "nowhere"),
            ("data.chat_template", "model"),
            ("data.max_tokens", "1"),
            ("model", "nowhere"),
            ("model", "texts.txt"),
            ("model", '""'),
            ("model", "adapter"),
            ("method.name", "nonsense"),
            ("method", "nonsense"),
            ("method", "{}"),
            ("method.num_texts", "0"),
            ("method.language_model.kept_fraction", "2"),
            ("method.language_model.mode", "nonsense"),
            ("parts.projector.path", "nonsense"),
            ("parts.language_model.rank", "1000000000000000000"),
            ("parts.language_model.rank", "0"),
            ("parts.language_model.path", "model.vision_tower"),
            ("export", "nonsense"),
            ("output", "3"),
            ("nonsense", "1"),
            ("training.max_steps.more", "1"),
            ("a..b", "1"),
            ("", "1"),
            ("training.max_steps", "[1"),
            ("output", '"\\ud800"'),
            ("training.logging_steps", "9" * 5000),
        ]
    )
    is_place = key.rpartition(".")[2] in ("model", "path", "image_folder", "chat_template")
    named = {'""': "'': no such folder", ".": "own.yaml"}.get(value, value) if is_place else key.rpartition(".")[2]
    return Fault([*COMMANDS[verb], "--set", f"{key}={value}"], named)


# models


@kind
def model_configuration_text(verb: str, place: Path, chance: random.Random) -> Fault:
    """A config.json that is no JSON, or holds no object."""
    return _damaged(verb, place / _model_of(verb, chance) / "config.json", damaged_json, place, chance)


@kind
def model_configuration_value(verb: str, place: Path, chance: random.Random) -> Fault:
    """A value in config.json that Transformers does not take."""
    file = place / _model_of(verb, chance) / "config.json"
    part, key, value = chance.choice(
        [
            ("", "model_type", chance.choice(["unheard_of", 3, None, [], "llama"])),
            ("", "text_config", chance.choice(["x", 3, [1]])),
            ("", "vision_config", chance.choice(["x", 3, [1]])),
            ("text_config", "model_type", chance.choice(["unheard_of", 3])),
            ("text_config", "hidden_size", chance.choice(["big", -5, 10**30, 0.5, [1], {"a": 1}])),
            ("text_config", "num_hidden_layers", chance.choice(["two", 10**6, 10**12, 2.5])),
            ("text_config", "num_attention_heads", chance.choice([5, 0, "four", -4])),
            ("text_config", "vocab_size", chance.choice([-1, "many", 10**30])),
            ("text_config", "intermediate_size", chance.choice([-1, "many", 10**30])),
            ("text_config", "hidden_act", chance.choice(["swoosh", 3, None])),
            ("vision_config", "hidden_size", chance.choice(["big", -5, 10**30, 0.5])),
            ("vision_config", "num_hidden_layers", chance.choice(["two", 10**6, 10**12, 2.5])),
            ("vision_config", "num_attention_heads", chance.choice([5, 0, "four"])),
            ("vision_config", "patch_size", chance.choice([0, "small", -8])),
            ("vision_config", "image_size", "small"),
        ]
    )
    content = json.loads(file.read_text())
    (content[part] if part else content)[key] = value
    file.write_text(json.dumps(content))
    return _on_model(verb, file.parent)


@kind
def weights(verb: str, place: Path, chance: random.Random) -> Fault:
    """A model.safetensors whose length, header or offsets are wrong."""
    return _damaged_bytes(verb, place / _model_of(verb, chance) / "model.safetensors", place, chance)


@kind
def index(verb: str, place: Path, chance: random.Random) -> Fault:
    """An index of weights that names none, others, or files outside of the folder."""
    folder = place / _model_of(verb, chance)
    (folder / "model.safetensors").rename(folder / "own.safetensors")
    shard = chance.choice(["missing.safetensors", "../own.safetensors", "/own.safetensors", "a.bin"])
    contents: list[Any] = [
        {"metadata": {}, "weight_map": {"a": shard, "b": "own.safetensors"}},
        {"metadata": {}, "weight_map": chance.choice([[], {}, "own.safetensors", 3, None, {"a": 3}])},
        {"metadata": chance.choice([3, []]), "weight_map": chance.choice([[], {"a": None}])},
        chance.choice([[], {}, 3, None, "text"]),
    ]
    if verb == "parts":  # it does not look for the files themselves
        contents[0] = {"metadata": {}, "weight_map": {"a": "../own.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(chance.choice(contents)))
    return _on_model(verb, folder)


@kind
def missing_file(verb: str, place: Path, chance: random.Random) -> Fault:
    """A file of the model's folder is not there, or a folder is in its place."""
    names = ["config.json"] if verb == "parts" else ["config.json", "model.safetensors"]
    if verb in ("adapt", "evaluate", "measure"):
        names += ["tokenizer.json", "processor_config.json"]
    file = place / _model_of(verb, chance) / chance.choice(names)
    file.unlink()
    if chance.random() < 0.4:
        file.mkdir()
    return _on_model(verb, file.parent)


@kind
def processor_text(verb: str, place: Path, chance: random.Random) -> Fault:
    """A file of the processor that is no JSON, or holds no object."""
    name = chance.choice(["tokenizer.json", "processor_config.json"])
    return _damaged(verb, place / "model" / name, damaged_json, place, chance)


@kind
def chat_template(verb: str, place: Path, chance: random.Random) -> Fault:
    """A chat template that fails, or writes nothing that could be trained or asked."""
    template = chance.choice(
        [
            *(
                "{% for %}",
                "{{ nothing.at.all }}",
                "",
                "constant",
                "{% for m in messages %}{{ m['role'] }}{% endfor %}",
            ),
            *("{{ messages[99].role }}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ messages | nofilter }}"),
            *("{% include 'x' %}", "{{ ''.__class__.__mro__ }}", "{{ messages", "<image>" * 9),
        ]
    )
    (place / "model" / "chat_template.jinja").write_text(template)
    return Fault(COMMANDS[verb], "template")


@kind
def adapter_file(verb: str, place: Path, chance: random.Random) -> Fault:
    """An adapter's folder in which a file is damaged, missing, or of another shape."""
    folder, arguments = place / "adapter", [a.replace("tuned", "adapter") for a in COMMANDS[verb]]
    file = folder / chance.choice(["adapter_config.json", "adapter_model.safetensors"])
    if chance.random() < 0.2:
        file.unlink()
    elif file.suffix == ".json" and chance.random() < 0.6:
        content = json.loads(file.read_text())
        key, value = chance.choice(
            [
                *(("peft_type", v) for v in ("NONSENSE", 3, None)),
                *(("r", v) for v in ("big", -1, 10**18, [2])),
                *(("lora_alpha", v) for v in ("big", [1])),
                *(("target_modules", v) for v in (3, "(((", [], "nowhere")),
                *(("nonsense_of_a_newer_version", v) for v in ()),
            ]
        )
        file.write_text(json.dumps(content | {key: value}))
    elif file.suffix == ".json":
        file.write_bytes(damaged_json(file.read_text(), chance))
    else:
        file.write_bytes(damaged_weights(file.read_bytes(), chance))
    return _on_model(verb, folder) if verb == "diff" else Fault(arguments, "adapter")


def _model_of(verb: str, chance: random.Random) -> str:
    return chance.choice(["model", "tuned"]) if verb in ("diff", "repair") else "model"


def _damaged(verb: str, file: Path, damage: Callable[[str, random.Random], bytes], place: Path, chance: Any) -> Fault:
    file.write_bytes(damage(file.read_text(), chance))
    return _on_model(verb, file.parent)


def _damaged_bytes(verb: str, file: Path, place: Path, chance: random.Random) -> Fault:
    file.write_bytes(damaged_weights(file.read_bytes(), chance))
    return _on_model(verb, file.parent)


def _on_model(verb: str, folder: Path) -> Fault:
    """The command, which has to find what is wrong in the folder of a model."""
    if verb == "diff" and folder.name != "model":
        return Fault(["diff", "model", folder.name, "--strict"], "", is_verdict=True)
    return Fault(COMMANDS[verb], folder.name)


# outputs and options


@kind
def output(verb: str, place: Path, chance: random.Random) -> Fault:
    """A place where nothing can be written, or where something is that must stay."""
    os.mkfifo(place / "pipe")
    (place / "loop").symlink_to("loop")
    deep = "/".join(["y" * 200] * 30)
    taken = "questions" if verb != "parts" else "model"
    output, named = chance.choice(
        [
            *(("own.yaml/out", "own.yaml"), ("own.yaml/a/b", "own.yaml"), ("x" * 300, "x" * 200), (deep, "y" * 200)),
            *(("~nosuchuser/out", "~nosuchuser"), ("~/out", "~"), ("/proc/textanchor", "/proc"), ("/", "/")),
            *(("/sys/textanchor/a", "/sys"), (".", "."), ("..", ".."), ("", "."), (taken, taken), ("pipe", "pipe")),
            *(("loop", "loop"), ("loop/a", "loop"), ("/dev/null/out", "/dev/null"), ("caf\udce9", "caf")),
        ]
    )
    return Fault(_with_output(verb, output), named)


@kind
def option(verb: str, place: Path, chance: random.Random) -> Fault:
    """An option or argument of the command line that means nothing here."""
    more, named = chance.choice(OPTIONS[verb])
    kept = [] if more and more[0] == verb else COMMANDS[verb]
    return Fault([*kept, *more], named)


@kind
def cache(verb: str, place: Path, chance: random.Random) -> Fault:
    """A cache folder that cannot be."""
    where = chance.choice(["own.yaml", "own.yaml/cache", "/proc/textanchor", "x" * 300, "~nosuchuser/cache"])
    arguments = [argument for argument in COMMANDS[verb] if argument != "--no-cache"]
    return Fault(arguments, where[:200], variables=(("TEXTANCHOR_CACHE", where),))
