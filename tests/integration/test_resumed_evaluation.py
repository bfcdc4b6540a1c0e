"""An evaluation that was killed ends with the rows of an uninterrupted one, and computes the rest only."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.evaluation_runs import evaluate_tiny
from helpers.tiny_chat import tiny_chat_model
from textanchor.errors import TextanchorError
from textanchor.evaluation.identity import answerer_hash
from textanchor.evaluation.registry import load_suites
from textanchor.evaluation.run import evaluate_to_folder
from textanchor.evaluation.suite import EvaluationOptions

MOST_LOST = 5
"""Passes of one batch, with a caption of four tokens, and the one that was interrupted."""
TESTS = Path(__file__).resolve().parents[1]


def count_passes(model: Any) -> list[int]:
    """Grows by one with each forward pass of the language model."""
    passes: list[int] = []
    model.get_decoder().register_forward_pre_hook(lambda *_: passes.append(1))
    return passes


@pytest.mark.parametrize("sharing", ["auto", "off"])
def test_an_interruption_loses_one_batch(sharing: Any, tmp_path: Path) -> None:
    model, processor = tiny_chat_model("llava")
    passes = count_passes(model)
    whole = evaluate_tiny(model, processor, tmp_path / "whole", sharing=sharing)
    needed = len(passes)
    for stop_at in (2, needed // 2, needed - 1):

        def interrupt(*_: Any, stop_at: int = stop_at) -> None:
            if len(passes) == stop_at:
                raise KeyboardInterrupt

        passes.clear()
        hook = model.get_decoder().register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            evaluate_tiny(model, processor, tmp_path / str(stop_at), sharing=sharing)
        hook.remove()
        resumed = evaluate_tiny(model, processor, tmp_path / str(stop_at), sharing=sharing)
        assert resumed.scores == whole.scores, "to the last bit"
        assert len(passes) <= needed + MOST_LOST, "the rest only"


def test_the_cache_knows_the_model_and_the_suite(tmp_path: Path) -> None:
    model, processor = tiny_chat_model("llava")
    passes = count_passes(model)
    suites = load_suites(["color"], num_items=4)

    def again(folder: str, chosen: Any = suites, **changes: Any) -> list[Any]:
        passes.clear()
        record = evaluate_to_folder(
            model, processor, chosen, tmp_path / folder, name="t", cache=tmp_path / "cache", progress=False, **changes
        )
        return record.scores

    first = again("one")
    assert passes
    assert again("two") == first
    assert not passes, "nothing is computed twice"
    again("three", load_suites(["color"], num_items=5))
    assert passes, "another suite"
    again("four", options=EvaluationOptions(precision="bfloat16"))
    assert passes, "computed otherwise"
    model.lm_head.weight.data.mul_(1.1)
    assert again("five") != first
    assert passes, "another model"


def test_the_answerer_is_more_than_its_weights() -> None:
    model, processor = tiny_chat_model("llava")
    options = EvaluationOptions()
    hashes = {answerer_hash("w", model, processor, options), answerer_hash("x", model, processor, options)}
    processor.chat_template += " "
    hashes.add(answerer_hash("w", model, processor, options))
    model.config.text_config.rms_norm_eps = 0.5
    hashes.add(answerer_hash("w", model, processor, options))
    assert len(hashes) == 4


def test_a_killed_process_is_taken_up(tmp_path: Path) -> None:
    model, processor = tiny_chat_model("llava")
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-m", "helpers.evaluation_runs", str(out)], cwd=TESTS)
    while process.poll() is None and not any(path.stat().st_size for path in out.glob("journals/*.jsonl")):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was killed while it worked"
    passes = count_passes(model)
    resumed = evaluate_tiny(model, processor, out)
    computed = len(passes)
    passes.clear()
    assert resumed.scores == evaluate_tiny(model, processor, tmp_path / "whole").scores
    assert computed < len(passes)


@pytest.mark.parametrize("there", [False, True])
def test_an_error_before_the_first_answer_leaves_the_place_as_it_was(there: bool, tmp_path: Path) -> None:
    model, processor = tiny_chat_model("llava")
    processor.chat_template = processor.tokenizer.chat_template = "{{ raise_exception('no') }}"
    if there:
        (tmp_path / "out").mkdir()
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(TextanchorError, match="chat template"):
            evaluate_to_folder(
                model,
                processor,
                load_suites(["color"], num_items=4),
                tmp_path / "out",
                name="tiny",
                cache=cache,
                progress=False,
            )
        assert list((tmp_path / "out").iterdir() if there else tmp_path.glob("out")) == []
