"""Nothing that can be configured is ignored: each field of a run and of its method, changed, changes the run.

What is compared is everything that decides a run: examples, trained tensors and their start, the Trainer's settings and
the optimizer's groups, the plan, the method's terms of the loss, and what it does after the last step. A field without
a case fails, so that no field can be added without one.
"""

import dataclasses
import importlib
import inspect
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny_llava import CHAT_TEMPLATE, tiny_llava_with_processor
from helpers.tiny_runs import picture, run_config, write_llava_data
from helpers.tiny_sessions import moved
from textanchor.errors import TextanchorError
from textanchor.files import sha256_of_json
from textanchor.holds import FilterConfig, fit_anchor
from textanchor.methods import METHODS
from textanchor.training.collate import Collator
from textanchor.training.config import AdaptConfig, DataConfig, PartConfig, PartsConfig, TrainingConfig
from textanchor.training.dataset import EncodedConversations, read_training_data, use_chat_template
from textanchor.training.method import Batch, load_method
from textanchor.training.own_answers import own_answers
from textanchor.training.session import Session
from textanchor.training.trainable import set_up_training, trained_parameters
from textanchor.training.trainer import AdaptTrainer, training_arguments
from textanchor.training.updates import StartWeights
from textanchor.vlm.hashing import hash_of_model
from textanchor.vlm.precision import choose_precision

FULL = {"projector": {"train": "full"}, "language_model": {"train": "full"}}
EWC: dict[str, Any] = {"name": "ewc", "num_texts": 2}
OLD: dict[str, Any] = {"tasks": ["shape"], "num_images": 2}
OUT: dict[str, Any] = {"mode": "outputs", "num_kept": 4}
IN: dict[str, Any] = {"mode": "inputs", "num_kept": 4}
APP: dict[str, Any] = {"name": "app", "projector": OUT, "num_texts": 4}
SCULPT: dict[str, Any] = {"name": "lorasculpt"}
REFERENCE: dict[str, Any] = {"task": "shape", "num_images": 2}
PICTURES: dict[str, Any] = {"folder": "FOLDER", "num_images": 2}


def app(held: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"method": APP | {"projector": held} | options}


def method(name: str, **options: Any) -> dict[str, Any]:
    return {"method": {"name": name, **options}}


Case = tuple[dict[str, Any], dict[str, Any]]
"""Changes of `run_config` before, and on top of them those that set the field to something else."""
CASES: dict[str, Case] = {
    "DataConfig.task": ({}, {"data__task": "color"}),
    "DataConfig.num_images": ({}, {"data__num_images": 4}),
    "DataConfig.path": ({}, {"data": {"path": "FOLDER/data.json"}}),
    "DataConfig.image_folder": ({"data": {"path": "FOLDER/data.json"}}, {"data__image_folder": "FOLDER/none"}),
    "DataConfig.max_tokens": ({}, {"data__max_tokens": 10}),
    "DataConfig.chat_template": ({}, {"data__chat_template": "FOLDER/template.jinja"}),
    "TrainingConfig.max_steps": ({}, {"training__max_steps": 4}),
    "TrainingConfig.epochs": ({"training": {"epochs": 1}}, {"training__epochs": 2}),
    "TrainingConfig.batch_size": ({}, {"training__batch_size": 3}),
    "TrainingConfig.accumulation": ({}, {"training__accumulation": 2}),
    "TrainingConfig.warmup": ({}, {"training__warmup": 0.5}),
    "TrainingConfig.scheduler": ({}, {"training__scheduler": "linear"}),
    "TrainingConfig.weight_decay": ({}, {"training__weight_decay": 0.3}),
    "TrainingConfig.max_grad_norm": ({}, {"training__max_grad_norm": 0.5}),
    "TrainingConfig.seed": ({}, {"training__seed": 1}),
    "TrainingConfig.precision": ({}, {"training__precision": "bfloat16"}),
    "TrainingConfig.cast_once": ({}, {"training__cast_once": True}),
    "TrainingConfig.save_steps": ({}, {"training__save_steps": 2}),
    "TrainingConfig.logging_steps": ({}, {"training__logging_steps": 1}),
    "TrainingConfig.report_to": ({}, {"training__report_to": ["no_such_tracker"]}),
    "TrainingConfig.cache_features": (
        {"parts__vision_tower": {"train": "lora"}},
        {"training__cache_features": True},
    ),
    "TrainingConfig.label_only_logits": ({}, {"training__label_only_logits": False}),
    "PartsConfig.projector": ({}, {"parts__projector": {"train": "lora"}}),
    "PartsConfig.language_model": ({}, {"parts__language_model": {"train": "full"}}),
    "PartsConfig.vision_tower": ({}, {"parts__vision_tower": {"train": "full"}}),
    "PartConfig.train": ({}, {"parts__projector": {"train": "lora", "learning_rate": 1e-2}}),
    "PartConfig.learning_rate": ({}, {"parts__projector__learning_rate": 2e-2}),
    "PartConfig.rank": ({}, {"parts__language_model__rank": 2}),
    "PartConfig.alpha": ({}, {"parts__language_model__alpha": 3.0}),
    "PartConfig.only": ({}, {"parts__language_model__only": "attention"}),
    "PartConfig.path": ({}, {"parts__projector__path": "model.no_such_projector"}),
    "L2SP.strength": (method("l2sp"), method("l2sp", strength=0.5)),
    "EWC.strength": ({"method": EWC}, {"method": EWC | {"strength": 2.0}}),
    "EWC.fisher": ({"method": EWC}, {"method": EWC | {"fisher": "kfac"}}),
    "EWC.texts": ({"method": EWC}, {"method": EWC | {"texts": "FOLDER/texts.txt"}}),
    "EWC.num_texts": ({"method": EWC}, {"method": EWC | {"num_texts": 1}}),
    "EWC.old": ({"method": EWC}, method("ewc", old=OLD)),
    "LwF.strength": (method("lwf"), method("lwf", strength=2.0)),
    "LwF.temperature": (method("lwf"), method("lwf", temperature=1.0)),
    "Replay.old": ({}, method("replay", old=OLD)),
    "Replay.reference": ({}, method("replay", reference=REFERENCE)),
    "OldData.tasks": (method("replay", old=OLD), method("replay", old=OLD | {"tasks": ["color"]})),
    "OldData.num_images": (method("replay", old=OLD), method("replay", old=OLD | {"num_images": 3})),
    "OldData.path": (method("replay", old=OLD), method("replay", old={"path": "FOLDER/data.json", "num_images": 2})),
    "OldData.image_folder": (
        method("replay", old={"path": "FOLDER/data.json", "num_images": 2}),
        method("replay", old={"path": "FOLDER/data.json", "num_images": 2, "image_folder": "FOLDER/none"}),
    ),
    "WiseFT.alpha": (method("wise_ft"), method("wise_ft", alpha=0.25)),
    "NormMatched.relative_norm": (
        method("norm_matched", relative_norm=0.1),
        method("norm_matched", relative_norm=0.2),
    ),
    "NormMatched.run": (method("norm_matched", relative_norm=0.1), method("norm_matched", run="FOLDER/none")),
    "OSF.kept_fraction": ({"parts": FULL} | method("osf"), method("osf", kept_fraction=0.25)),
    "OSF.project": ({"parts": FULL} | method("osf"), method("osf", project="step")),
    "CorDA.texts": (method("corda", num_texts=2), method("corda", num_texts=2, texts="FOLDER/texts.txt")),
    "CorDA.num_texts": (method("corda", num_texts=2), method("corda", num_texts=1)),
    "LoRANull.freeze_a": (method("lora_null", num_texts=2), method("lora_null", num_texts=2, freeze_a=True)),
    "LoRANull.texts": (method("lora_null", num_texts=2), method("lora_null", num_texts=2, texts="FOLDER/texts.txt")),
    "LoRANull.num_texts": (method("lora_null", num_texts=2), method("lora_null", num_texts=1)),
    "LoRASculpt.language_model_strength": ({"method": SCULPT}, {"method": SCULPT | {"language_model_strength": 0.1}}),
    "LoRASculpt.projector_strength": ({"method": SCULPT}, {"method": SCULPT | {"projector_strength": 0.1}}),
    "LoRASculpt.omega": ({"method": SCULPT}, {"method": SCULPT | {"omega": 2.0}}),
    "AnchorPreservingProjection.projector": ({"method": APP}, app(OUT | {"num_kept": 5})),
    "AnchorPreservingProjection.language_model": ({"method": APP}, app(OUT, language_model=IN)),
    "AnchorPreservingProjection.texts": ({"method": APP}, app(OUT, texts="FOLDER/texts.txt", num_texts=2)),
    "AnchorPreservingProjection.num_texts": ({"method": APP}, app(OUT, num_texts=3)),
    "AnchorPreservingProjection.reference": ({"method": APP}, app(OUT, reference=REFERENCE)),
    "AnchorPreservingProjection.anchor": (
        {"method": APP},
        {"method": {"name": "app", "projector": OUT, "anchor": "FOLDER/anchor"}},
    ),
    "AnchorPreservingProjection.replay_reference": (
        app(OUT, reference=REFERENCE),
        app(OUT, reference=REFERENCE, replay_reference=True),
    ),
    "AnchorPreservingProjection.language_anchor": (
        app(OUT, language_model=IN, reference=REFERENCE),
        app(OUT, language_model=IN, reference=REFERENCE, language_anchor="text_and_images"),
    ),
    "ReferenceImages.num_images": (
        app(IN, reference=REFERENCE),
        app(IN, reference=REFERENCE | {"num_images": 3}),
    ),
    "ReferenceImages.task": (app(IN, reference=REFERENCE), app(IN, reference=REFERENCE | {"task": "color"})),
    "ReferenceImages.tasks": (
        app(IN, reference=REFERENCE),
        app(IN, reference={"tasks": ["existence", "color"], "num_images": 2}),
    ),
    "ReferenceImages.path": (
        app(IN, reference=REFERENCE),
        app(IN, reference={"path": "FOLDER/asked.jsonl", "num_images": 2}),
    ),
    "ReferenceImages.folder": (
        app(IN, reference=REFERENCE),
        app(IN, reference={"folder": "FOLDER", "num_images": 2}),
    ),
    "ReferenceImages.question": (
        app(OUT | {"basis": "reference_sensitivity"}, reference=PICTURES | {"question": "What is it?"}),
        app(OUT | {"basis": "reference_sensitivity"}, reference=PICTURES | {"question": "Describe the image."}),
    ),
    "FilterConfig.mode": ({"method": APP}, app(OUT | {"mode": "manifold"})),
    "FilterConfig.basis": ({"method": APP}, app(OUT | {"basis": "random"})),
    "FilterConfig.basis_seed": (app(OUT | {"basis": "random"}), app(OUT | {"basis": "random", "basis_seed": 1})),
    "FilterConfig.num_kept": ({"method": APP}, app(OUT | {"num_kept": 3})),
    "FilterConfig.kept_fraction": (
        app({"mode": "outputs", "kept_fraction": 0.2}),
        app({"mode": "outputs", "kept_fraction": 0.4}),
    ),
    "FilterConfig.kept_energy": (
        app({"mode": "outputs", "kept_energy": 0.2}),
        app({"mode": "outputs", "kept_energy": 0.6}),
    ),
    "FilterConfig.gains": (app(OUT | {"hold": "share"}), app(OUT | {"hold": "share", "gains": "ridge"})),
    "FilterConfig.gain_parameter": (
        app(OUT | {"hold": "share", "gains": "ridge"}),
        app(OUT | {"hold": "share", "gains": "ridge", "gain_parameter": 3.0}),
    ),
    "FilterConfig.hold": ({"method": APP}, app(OUT | {"hold": "share"})),
    "FilterConfig.share": (app(OUT | {"hold": "share"}), app(OUT | {"hold": "share", "share": 0.5})),
    "FilterConfig.strength": (app(OUT | {"hold": "decay"}), app(OUT | {"hold": "decay", "strength": 5.0})),
    "FilterConfig.target": ({"method": APP}, app(OUT | {"target": "remove"})),
    "FilterConfig.inner": (
        app(OUT, reference=REFERENCE),
        app(OUT | {"inner": "pullback"}, reference=REFERENCE),
    ),
    "FilterConfig.gradients": ({"method": APP}, app(OUT | {"gradients": "projected"})),
    "FilterConfig.norm_cap": ({"method": APP}, app(OUT | {"norm_cap": 0.1})),
}
SHOWN_BY = {
    "AdaptConfig.model": "integration/test_evaluate_command.py",
    "AdaptConfig.output": "integration/test_adapt.py",
    "AdaptConfig.export": "integration/test_adapter_export.py",
}
"""Fields whose effect lies before or after the run, and the tests that show it."""
NESTED = {"AdaptConfig.data", "AdaptConfig.training", "AdaptConfig.method", "AdaptConfig.parts"}


KNOWN: dict[str, Any] = {}
"""Outcomes before a change, by the change's repr: several cases begin with the same configuration."""


def all_fields() -> set[str]:
    """Class.field of every configuration that a run can have."""
    classes: list[Any] = [AdaptConfig, DataConfig, PartConfig, PartsConfig, TrainingConfig, FilterConfig]
    for target in METHODS.values():
        module = importlib.import_module(target.partition(":")[0])
        named = [cls for _, cls in inspect.getmembers(module, inspect.isclass)]
        # a base that methods share stands in another module, and its fields are theirs
        classes += [cls for cls in named if hasattr(cls, "needs") and cls.__module__ == module.__name__]
        classes += [cls for cls in named if cls.__name__ in ("OldData", "ReferenceImages")]
    return {f"{cls.__name__}.{field.name}" for cls in classes for field in dataclasses.fields(cls)}


def test_every_field_has_a_case() -> None:
    assert CASES.keys() | SHOWN_BY.keys() | NESTED == all_fields()
    assert all((Path(__file__).parents[1] / path).is_file() for path in SHOWN_BY.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that cases name."""
    folder = tmp_path_factory.mktemp("files")
    write_llava_data(folder)
    (folder / "texts.txt").write_text("A star.\nThe ring is blue.\n")
    (folder / "template.jinja").write_text(CHAT_TEMPLATE.replace("|im_start|>'", "|im_start|>the '"))
    for seed in range(12):
        picture(seed).save(folder / f"reference-{seed}.png")
    rows = [{"image": f"reference-{seed}.png", "question": "What is it?", "answer": "a star"} for seed in range(12)]
    (folder / "asked.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    fit_anchor(*tiny_llava_with_processor(), ["A star."], linears=[]).save(folder / "anchor")
    return folder


@pytest.mark.parametrize("field", CASES)
def test_a_changed_field_changes_the_run_or_is_refused(field: str, folder: Path, tmp_path: Path) -> None:
    before, change = (placed(changes, folder) for changes in CASES[field])
    key = repr(before)
    if key not in KNOWN:
        KNOWN[key] = outcome(before, tmp_path)
        assert isinstance(KNOWN[key], dict), KNOWN[key]
    assert KNOWN[key] != outcome(before | change, tmp_path)


def test_an_unchanged_configuration_gives_the_same(folder: Path, tmp_path: Path) -> None:
    for changes in ({}, {"method": EWC}, {"method": APP}):
        assert outcome(changes, tmp_path) == outcome(changes, tmp_path)


def placed(value: Any, folder: Path) -> Any:
    """With the folder of the files in place of its name."""
    if isinstance(value, dict):
        return {key: placed(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [placed(inner, folder) for inner in value]
    return value.replace("FOLDER", str(folder)) if isinstance(value, str) else value


def outcome(changes: dict[str, Any], folder: Path) -> Any:
    """What decides the run, or the error that ends it."""
    try:
        return decided(run_config(folder / "out", **changes), folder)
    except TextanchorError as error:
        return f"{type(error).__name__}: {error}"


def decided(config: AdaptConfig, folder: Path) -> dict[str, Any]:
    """Everything that decides the run, as plain values."""
    method = load_method(config.method)
    model, processor = tiny_llava_with_processor()
    use_chat_template(processor, config.data.chat_template)
    answered = partial(own_answers, model, processor)
    conversations = method.training_data(read_training_data(config), config.training.seed, answered)
    encoded = EncodedConversations(conversations, processor, max_tokens=config.data.max_tokens)
    examples = [encoded[i] for i in range(len(encoded))]
    precision = choose_precision(model, config.training.precision)
    arguments = training_arguments(config.training, folder, bfloat16=precision.bfloat16)
    anchor_hash = hash_of_model(model)
    seed = config.training.seed
    parts = set_up_training(model, config.trained_parts, seed=seed, method=method, processor=processor)
    session = Session(
        config, processor, parts, anchor_hash, StartWeights(parts), folder, is_resumed=False, hashes={"model": ""}
    )
    attachment = method.start(session)
    trainer = AdaptTrainer(
        arguments,
        parts,
        examples,
        Collator(0),
        rates=config.trained_parts,
        label_only_logits=config.training.label_only_logits,
        held=attachment.held,
    )
    groups = [
        (group["lr"], group["weight_decay"], len(group["params"])) for group in trainer.create_optimizer().param_groups
    ]
    torch.manual_seed(0)
    start = hash_of_model(model)
    moved(session, 0.05)
    trained = trained_parameters(parts.model)
    return {
        "examples": [(e.input_ids_L.tolist(), e.labels_L.tolist(), checksum(e.visual_inputs)) for e in examples],
        "arguments": sha256_of_json({k: str(v) for k, v in vars(arguments).items() if not k.startswith("_")}),
        "label_only_logits": trainer.label_only_logits,
        "groups": groups,
        "trained": sorted(trained),
        "start": start,
        "updates": [(update.name, round(float(update.delta.norm()), 4)) for update in session.start.updates()],
        "callbacks": [type(callback).__name__ for callback in attachment.callbacks],
        "plan": None if attachment.plan is None else attachment.plan.fingerprint,
        "probe": None if attachment.probe is None else [tensor.tolist() for tensor in tensors_of(attachment.probe)],
        "terms": terms(attachment, examples, parts.model),
        "finished": finished(attachment, session),
    }


def checksum(tensors: dict[str, Tensor]) -> list[float]:
    return [float(tensor.double().sum()) for tensor in tensors.values()]


def tensors_of(probe: Any) -> list[Tensor]:
    return [value for value in vars(probe).values() if isinstance(value, Tensor)]


def terms(attachment: Any, examples: Any, model: Any) -> list[float]:
    """The method's terms of the loss at the moved weights."""
    found = []
    if attachment.penalty is not None and attachment.plan is None:
        found.append(float(torch.as_tensor(attachment.penalty()).detach()))
    if attachment.batch_penalty is not None:
        batch = Collator(0)(examples[:2])
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}

        def forward() -> Tensor:
            return model(**inputs).logits.flatten(0, 1)

        found.append(float(attachment.batch_penalty(Batch(forward(), forward)).detach()))
    return found


def finished(attachment: Any, session: Session) -> list[float]:
    """Sizes of the updates after the method's last act."""
    if attachment.finish is not None:
        attachment.finish()
    return [round(float(update.delta.norm()), 4) for update in session.start.updates()]
