"""What a user sees: the verbs, and one paragraph with exit code 2 for every mistake that can be mended."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from helpers.tiny_config import TEXT
from helpers.tiny_llava import tiny_llava_with_processor
from textanchor import __version__
from textanchor.cli import demo, main
from textanchor.demo.config import DEFAULT_MINUTES, DemoConfig, NewTask
from textanchor.errors import DataError

CONFIG: dict[str, Any] = {
    "model": "embedded",
    "data": {"task": "words", "num_images": 8},
    "training": {"max_steps": 1},
    "output": "out",
}


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(main.app, [str(argument) for argument in arguments])


def assert_is_a_mistake(result: Any, *fragments: str) -> None:
    """Exit code 2; on standard error one paragraph with the fragments, no traceback; nothing on standard output."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for fragment in fragments:
        assert fragment in result.stderr


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def test_the_command_line_grows_only_on_purpose() -> None:
    names = ["demo", "parts", "adapt", "evaluate", "compare", "diff", "repair", "measure", "report", "fetch", "doctor"]
    assert list(main.VERBS) == names


def test_the_demo_verb_offers_what_the_demo_has() -> None:
    task = inspect.signature(demo.run).parameters["task"].default  # written twice, to keep --help light
    assert {task.value for task in demo.NewTask} == set(get_args(NewTask))
    assert inspect.signature(demo.run).parameters["minutes"].default == DEFAULT_MINUTES
    assert task == DemoConfig().task


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert verb in result.stdout


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"textanchor {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["adapt", "none.yaml"], ["none.yaml", "cannot be read"]),
        (["adapt", "config.yaml", "--set", "trainign.max_steps=3"], ["'trainign'", "did you mean 'training'"]),
        (["adapt", "config.yaml", "--set", "training.max_stepz=3"], ["training.max_stepz", "did you mean 'max_steps'"]),
        (["adapt", "config.yaml", "--set", "training.max_steps=x"], ["training.max_steps", "a whole number", "'x'"]),
        (["adapt", "config.yaml", "--set", "training.max_steps"], ["expected key=value"]),
        (["adapt", "config.yaml", "--set", "method.name=ap"], ["'ap'", "'app'"]),
        (["adapt", "config.yaml", "--set", "method.strenght=2"], ["'method.name' is missing", "app"]),
        (["adapt", "config.yaml", "--output", "config.yaml"], ["config.yaml", "expected a folder"]),
        (["adapt", "config.yaml", "--set", "data.task=wordz"], ["wordz", "words"]),
        (["adapt", "config.yaml", "--set", "data={path: none.json}"], ["none.json"]),
        (["adapt", "config.yaml", "--resume"], ["out"]),
        (["parts", "no-such-folder"], ["no-such-folder", "no such folder"]),
        (["parts", "config.yaml"], ["config.yaml", "found a file"]),
        (["parts", "nobody/no-such-model"], ["nobody/no-such-model"]),
        (["evaluate", "embedded", "--suite", "shapes", "--out", "e"], ["'shapes'", "did you mean 'shape'"]),
        (["evaluate", "embedded", "--suite", "foldr:a", "--out", "e"], ["'foldr:a'", "did you mean 'folder:a'"]),
        (["evaluate", "embedded", "--suite", "shape", "--out", "e", "--baseline", "none"], ["none"]),
        (["diff", "none", "config.yaml"], ["none", "no such folder or file"]),
        (["diff", "config.yaml", "none"], ["config.yaml", "not a safetensors file"]),
        (["diff", "none", "none", "--out", "config.yaml"], ["config.yaml", "expected a folder"]),
        (["measure", "embedded", "--data", "none", "--out", "m"], ["none", "no such file or folder", "'scenes'"]),
        (["measure", "embedded", "--data", "scenes", "--out", "m", "--num-images", "5"], ["num_images", "at least 20"]),
        (["repair", "none", "--base", "none", "--out", "e"], ["none", "no such folder or file"]),
        (["repair", "none", "--base", "none", "--out", "e", "--keep", "tasks"], ["--validate"]),
        (["repair", "none", "--base", "none", "--out", "e", "--plan", "config.yaml"], ["config.yaml", "unknown key"]),
        (["repair", "none", "--base", "none", "--out", "e", "--strength", "2"], ["strength", "0 and 1"]),
        (["report", "none"], ["none/report.json", "cannot be read"]),
        (["report"], ["'DIR'", "report --help"]),
        (["reprot", "none"], ["'reprot'", "--help"]),
        (["evaluate", "embedded", "--suite", "shape", "--out", "e", "--num-items", "x"], ["--num-items", "integer"]),
        (["evaluate", "embedded", "--suite", "shape", "--out", "e", "--num-item", "1"], ["--num-item", "--num-items"]),
        (["evaluate", "embedded", "--suite", "shape", "--out", "e", "--seed", "-1"], ["seed", "at least 0", "-1"]),
        (["evaluate", "embedded", "--suite", "shape", "--out", "e", "--num-items", "1000000000"], ["at most 20,000"]),
        (["demo", "--minutes", "nan"], ["--minutes", "greater than 0"]),
        (["demo", "--task", "letters"], ["--task", "'letters'", "'words'"]),
        (
            ["compare", "config.yaml", "--out", "c", "--max-minutes", "nan"],
            ["--max-minutes", "equal to 0"],
        ),
        (["diff", "a", "b", "--frozen", "tower"], ["--frozen", "'tower'", "'vision_tower'"]),
    ],
)
def test_mistakes_are_told_in_one_paragraph(
    config: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], fragments: list[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_is_a_mistake(run(*arguments), *fragments)
    assert list(config.parent.iterdir()) == [config], "a mistake leaves nothing behind"


def test_a_folder_where_a_file_is_to_be_written_is_a_mistake(config: Path) -> None:
    model, processor = tiny_llava_with_processor()
    model.save_pretrained("tiny")
    processor.save_pretrained("tiny")
    result = run("parts", "tiny", "--save", config.parent)
    assert result.exit_code == 2
    assert "expected a file to write, found a folder; give the name of a file" in result.stderr


@pytest.mark.parametrize("verb", ["adapt", "evaluate", "measure", "parts"])
def test_a_model_of_text_alone_is_a_mistake(verb: str, config: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained("text")
    options = {
        "adapt": [config, "--set", "model=text"],
        "evaluate": ["text", "--suite", "shape", "--num-items", "1", "--out", "e"],
        "measure": ["text", "--data", "scenes", "--num-images", "20", "--out", "e"],
        "parts": ["text"],
    }
    result = run(verb, *options[verb])
    result.stderr_bytes = result.stderr_bytes[result.stderr_bytes.index(b"error:") :]  # a bar may stand before it
    assert_is_a_mistake(result, "'llama' is no vision-language model", "'embedded'")
    assert not (config.parent / "e").exists() and not (config.parent / "out").exists()


@pytest.mark.parametrize(
    ("rows", "fragments"),
    [
        ([], ["data.json", "no conversations to train on", "at least one row"]),
        (
            [
                {
                    "image": "../a.png",
                    "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a"}],
                }
            ],
            ["data.json, record 1", "'../a.png' leads out of the image folder"],
        ),
    ],
)
def test_data_that_cannot_be_trained_on_is_a_mistake(rows: list[Any], fragments: list[str], config: Path) -> None:
    (config.parent / "data.json").write_text(json.dumps(rows))
    assert_is_a_mistake(run("adapt", config, "--set", "data={path: data.json}"), *fragments)


def test_yaml_with_a_wrong_line_names_it(config: Path) -> None:
    config.write_text("model: embedded\ndata: [\n")
    assert_is_a_mistake(run("adapt", config), f"{config}, line 3")


def raising(error: BaseException) -> Any:
    def verb() -> None:
        raise error

    return verb


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the verb `fetch` raise an error."""

    def make(error: BaseException) -> None:
        monkeypatch.setattr("textanchor.fetch.fetch_wheel_member", lambda source: raising(error)())

    return make


def test_markup_and_lines_in_a_message_are_plain_text(broken: Any) -> None:
    broken(DataError("a[0]: [red]found\n  [/] two\nlines"))
    assert_is_a_mistake(run("fetch"), "a[0]: [red]found [/] two lines")


def test_debug_shows_the_traceback(broken: Any) -> None:
    broken(DataError("wrong"))
    assert isinstance(run("--debug", "fetch").exception, DataError)


def test_interruption_ends_with_its_own_code(broken: Any) -> None:
    broken(KeyboardInterrupt())
    result = run("fetch")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_our_own_bugs_are_not_dressed_up(broken: Any) -> None:
    broken(ZeroDivisionError("bug"))
    assert isinstance(run("fetch").exception, ZeroDivisionError)


def test_a_new_process_ends_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "textanchor.cli", "report", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, "paths stay whole: long lines are not broken"


@pytest.mark.parametrize(
    "arguments", [["parts", "caf\udce9"], ["--\udcff"], ["adapt", "a.yaml", "--output", "\udc80/b"]]
)
def test_arguments_that_are_no_text(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["textanchor", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert "holds bytes that are no UTF-8" in capsys.readouterr().err
