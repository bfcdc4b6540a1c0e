import ast
import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest

from textanchor.config import from_dict, load_config, save_config, to_dict
from textanchor.errors import ConfigError, OutputError
from textanchor.training.checkpoints import workspace_of
from textanchor.training.config import AdaptConfig, DataConfig, PartConfig, PartsConfig, TrainingConfig

LEAST: dict[str, Any] = {
    "model": "embedded",
    "output": "out",
    "data": {"task": "words", "num_images": 4},
    "training": {"max_steps": 2},
}


def test_the_least_that_must_be_said_is_plain_tuning_with_llava_s_parts() -> None:
    config = from_dict(AdaptConfig, LEAST)
    assert config.method == {"name": "full"}
    assert config.trained_parts == PartsConfig(
        projector=PartConfig(train="full", learning_rate=2e-5),
        language_model=PartConfig(train="lora", learning_rate=2e-4, rank=16, alpha=32.0),
        vision_tower=PartConfig(train="frozen"),
    )


def test_saved_and_read_again_is_equal(tmp_path: Path) -> None:
    config = from_dict(AdaptConfig, LEAST | {"method": {"name": "l2sp", "strength": 0.5}})
    save_config(config, tmp_path / "c.yaml")
    assert load_config(AdaptConfig, tmp_path / "c.yaml") == config
    assert to_dict(config)["parts"]["language_model"]["rank"] == 16


def test_lora_trains_low_rank_updates_of_both_halves() -> None:
    parts = from_dict(AdaptConfig, LEAST | {"method": {"name": "lora"}}).trained_parts
    assert {name: part.train for name, part in parts.trained().items()} == {
        "projector": "lora",
        "language_model": "lora",
    }


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"data": {"task": "words"}}, "num_images"),
    ({"data": {"num_images": 3}}, "exactly one of task"),
    ({"data": {"task": "words", "num_images": 3, "path": "x.json"}}, "exactly one of task"),
    ({"data": {"task": "words", "num_images": 0}}, "num_images must be at least 1"),
    ({"data": {"path": "x.json", "num_images": 3}}, "num_images"),
    ({"data": {"task": "words", "num_images": 3, "image_folder": "x"}}, "image_folder has no effect"),
    ({"training": {"max_steps": 2, "epochs": 1}}, "exactly one of max_steps and epochs"),
    ({"training": {}}, "exactly one of max_steps and epochs"),
    ({"training": {"max_steps": 2, "warmup": 1.0}}, "warmup"),
    ({"training": {"max_steps": 2, "max_grad_norm": 0.0}}, "max_grad_norm"),
    ({"training": {"max_steps": 2, "weight_decay": -0.1}}, "weight_decay"),
    ({"training": {"max_steps": 2, "seed": -1}}, "seed"),
    ({"training": {"max_steps": 2, "batch_size": 0}}, "batch_size must be at least 1"),
    ({"training": {"max_steps": 2, "precision": "float16"}}, "training.precision"),
    ({"parts": {"projector": {"train": "frozen", "learning_rate": 0.1}}}, "learning_rate has no effect"),
    ({"parts": {"projector": {"train": "full", "rank": 2}}}, "rank and alpha have no effect"),
    ({"parts": {"projector": {"train": "lora", "rank": 0}}}, "rank must be greater than 0"),
    ({"parts": {"projector": {"train": "frozen"}, "language_model": {"train": "frozen"}}}, "all frozen"),
    ({"parts": {"tower": {"train": "full"}}}, "vision_tower"),
    ({"method": {"name": "ful"}}, "did you mean 'full'"),
    ({"method": {}}, "the key 'method.name' is missing; known methods are"),
    ({"method": {"name": "full", "strength": 1.0}}, "unknown key 'strength'"),
    ({"method": {"name": "l2sp", "strength": 0.0}}, "strength must be greater than 0"),
    ({"method": {"name": "lora"}, "parts": {"projector": {"train": "full"}}}, "parts.projector.train is full"),
    ({"parts": {"vision_tower": {"train": "full"}}, "training": {"max_steps": 1, "cache_features": True}}, "cache"),
]


@pytest.mark.parametrize(("changes", "expected"), WRONG, ids=lambda value: str(value)[:60])
def test_what_cannot_be_or_would_have_no_effect_is_an_error(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected.replace(".", r"\.")):
        from_dict(AdaptConfig, LEAST | changes, source="run.yaml")


def test_every_field_says_what_it_is() -> None:
    for cls in (AdaptConfig, DataConfig, PartConfig, PartsConfig, TrainingConfig):
        body = ast.parse(inspect.getsource(cls)).body[0].body  # pyright: ignore[reportAttributeAccessIssue]
        for statement, following in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign):
                is_documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                assert is_documented, ast.unparse(statement)


@pytest.mark.parametrize("output", [".", "..", "/", "a/.."])
def test_an_output_without_a_name_has_no_place_for_checkpoints(output: str) -> None:
    with pytest.raises(OutputError, match="is a folder that is in use; give the name of a new folder in it"):
        workspace_of(Path(output))
