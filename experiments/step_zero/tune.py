"""Plain updates, made once each: tuned tensors on disk, and nothing else of the tuned model."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from bench import Bench, told
from safetensors.torch import load_file, save_file
from settings import Tuning
from torch import Tensor

from textanchor.config import from_dict, to_dict
from textanchor.files import atomic_file, read_json, sha256_of_file, sha256_of_json, write_json
from textanchor.training.adapt import adapt
from textanchor.training.adapter_export import WEIGHTS
from textanchor.training.config import AdaptConfig
from textanchor.training.features import FeatureStore
from textanchor.vlm.loading import load_vlm
from textanchor.vlm.names import PEFT_MODEL


@dataclass(frozen=True)
class LoraUpdate:
    """Delta W = basis_OR @ rows_RI, the basis orthonormal: energies of the update are those of its rows."""

    basis_OR: Tensor
    rows_RI: Tensor

    @classmethod
    def of(cls, a_RI: Tensor, b_OR: Tensor, scaling: float) -> "LoraUpdate":
        """Of LoRA's factors."""
        basis_OR, mixed_RR = torch.linalg.qr(b_OR.double())
        return cls(basis_OR, scaling * mixed_RR @ a_RI.double())

    def delta(self, rows_RI: Tensor) -> Tensor:
        """(O, I) change of the weight with these rows."""
        return (self.basis_OR @ rows_RI).float()


@dataclass(frozen=True)
class Tuned:
    """An update of the model: its tensors, tuned."""

    task: str
    seed: int
    hash: str
    projector: dict[str, Tensor]
    """Tuned values by base name."""
    lora: dict[str, LoraUpdate]
    """By base name of the linear."""
    cost: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.task}-{self.seed}"


def tuned(bench: Bench, tuning: Tuning, task: str, seed: int, store: FeatureStore) -> Tuned:
    """The update with these settings, from disk where it was made before."""
    asked = {"model": bench.model_hash, "tuning": to_dict(tuning), "task": task, "seed": seed}
    path = bench.work / "updates" / f"{task}-{seed}-{sha256_of_json(asked)[:12]}.safetensors"
    if not path.is_file():
        _tune(bench, tuning, task, seed, store, path)
    tensors = load_file(path)
    facts = read_json(path.with_suffix(".json"))
    factors = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    layers = dict.fromkeys(name.partition(".lora_")[0] for name in factors)
    lora = {
        layer: LoraUpdate.of(factors[f"{layer}.lora_A.weight"], factors[f"{layer}.lora_B.weight"], facts["scaling"])
        for layer in layers
    }
    projector = {name: tensor for name, tensor in tensors.items() if name not in factors}
    return Tuned(task, seed, sha256_of_file(path), projector, lora, facts["cost"])


def _tune(bench: Bench, tuning: Tuning, task: str, seed: int, store: FeatureStore, path: Path) -> None:
    told(f"tuning on {task}, seed {seed}, {'projector and LoRA' if tuning.lora_learning_rate else 'projector'}")
    output = bench.work / "tuning" / path.stem
    for leftover in (output, output.with_name(f"{output.name}.checkpoints")):
        shutil.rmtree(leftover, ignore_errors=True)
    config = _config(bench, tuning, task, seed, output)
    model, processor = load_vlm(bench.settings.model)
    result = adapt(config, model=model, processor=processor, features=store)
    if tuning.lora_learning_rate is None:
        tensors = {name: p.detach().contiguous() for name, p in result.model.named_parameters()}
        tensors = {name: tensors[name] for name in bench.parts.projector_tensors}
    else:
        tensors = {name.removeprefix(PEFT_MODEL): tensor for name, tensor in load_file(output / WEIGHTS).items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary)
    facts = {"scaling": 2.0, "cost": result.record.cost, "loss": result.record.extra["loss"], "config": to_dict(config)}
    write_json(path.with_suffix(".json"), facts)
    shutil.rmtree(output)


def _config(bench: Bench, tuning: Tuning, task: str, seed: int, output: Path) -> AdaptConfig:
    language_model: dict[str, object] = {"train": "frozen"}
    if tuning.lora_learning_rate is not None:
        rank = tuning.lora_rank
        language_model = {"train": "lora", "learning_rate": tuning.lora_learning_rate, "rank": rank}
        language_model["alpha"] = 2.0 * rank  # so that the update is 2 B A
    values = {
        "model": bench.settings.model,
        "data": {"task": task, "num_images": tuning.num_images},
        "output": str(output),
        "method": {"name": "full"},
        "parts": {
            "projector": {"train": "full", "learning_rate": tuning.projector_learning_rate},
            "language_model": language_model,
        },
        "training": {
            "max_steps": tuning.steps,
            "batch_size": tuning.batch_size,
            "seed": seed,
            "precision": "bfloat16",
            "cast_once": True,
            "cache_features": True,
        },
        "export": "plain" if tuning.lora_learning_rate is None else "peft",
    }
    return from_dict(AdaptConfig, values)
