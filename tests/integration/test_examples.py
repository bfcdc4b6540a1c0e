"""The examples run and show what they say."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import mixed_conversations
from textanchor.data.tasks import load_conversations
from textanchor.data.texts import load_texts
from textanchor.training.collate import Collator
from textanchor.training.sequences import encode

EXAMPLES = {"plain_pytorch", "vlm_plain_loop", "vlm_accelerate", "vlm_trainer", "vlm_trl"}
SETTINGS: dict[str, Any] = {"steps": 5, "batch_size": 2, "learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def fresh_accelerate() -> None:
    """A script begins without what an earlier run in this process left in accelerate, such as its precision."""
    AcceleratorState._reset_state(reset_partial_state=True)


def test_every_example_is_run_here(repository: Path) -> None:
    assert {path.stem for path in (repository / "examples").glob("*.py")} == EXAMPLES


def test_plain_pytorch(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(repository / "examples" / "plain_pytorch.py"))
    report = names["handle"].audit()
    report.require_kept()
    moved = (names["projector"](names["old"]) - names["kept"]).abs().max()
    assert moved < 1e-4
    assert report.rows[0].relative_update > 0.1
    assert "9 of 65 directions" in capsys.readouterr().out


def example(repository: Path, name: str) -> dict[str, Any]:
    return runpy.run_path(str(repository / "examples" / f"{name}.py"))


def texts() -> list[str]:
    return [row.text for row in load_texts("train")[:8]]


def tuned(tune: Any, **options: Any) -> tuple[Any, Any]:
    """The tiny model after `tune`, whose audit must be kept, and what it was trained on."""
    model, processor = tiny_llava_with_processor()
    conversations = mixed_conversations()
    given = options.pop("data", lambda _: conversations)(processor)
    report = tune(model, processor, given, texts(), **SETTINGS, **options)
    report.require_kept()
    assert report.rows[0].relative_update > 0.1
    return model, report


@pytest.fixture(scope="module")
def plain(repository: Path) -> Any:
    return tuned(example(repository, "vlm_plain_loop")["tune"])[0]


@pytest.mark.parametrize("name", ["vlm_accelerate", "vlm_trainer"])
def test_other_loops_give_the_same_weights(name: str, repository: Path, plain: Any) -> None:
    model, _ = tuned(example(repository, name)["tune"])
    for key, tensor in plain.state_dict().items():
        assert torch.allclose(model.state_dict()[key], tensor, atol=1e-6), key


@pytest.mark.filterwarnings("default")  # TRL's and datasets' own
def test_trl_on_the_same_batches_gives_the_same_weights(repository: Path, plain: Any) -> None:
    datasets = pytest.importorskip("datasets")
    encoded: list[Any] = []

    def indices(processor: Any) -> Any:
        encoded.extend(encode(c, processor) for c in mixed_conversations())
        return datasets.Dataset.from_dict({"index": list(range(len(encoded)))})

    collate = Collator(0)
    model, _ = tuned(
        example(repository, "vlm_trl")["tune"],
        data=indices,
        data_collator=lambda rows: collate([encoded[row["index"]] for row in rows]),
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    )
    for key, tensor in plain.state_dict().items():
        assert torch.allclose(model.state_dict()[key], tensor, atol=1e-6), key


@pytest.mark.filterwarnings("default")
def test_trl_on_its_own_data(repository: Path) -> None:
    names = example(repository, "vlm_trl")
    conversations = load_conversations("shape", split="train", num_images=4)
    tuned(names["tune"], data=lambda _: names["rows_of"](conversations))
