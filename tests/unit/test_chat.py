"""Chat templates and processors that fail are told in a sentence, wherever prompts are written."""

from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import mixed_conversations
from textanchor.data.items import Item
from textanchor.errors import ConfigError, DataError, ModelError
from textanchor.evaluation.scoring.prompting import encode_item, render_prompt
from textanchor.training.dataset import use_chat_template
from textanchor.training.sequences import encode
from textanchor.vlm.chat import process

BROKEN = {
    "{% for %}": "TemplateSyntaxError",
    "{{ raise_exception('no system') }}": "no system",
    "{{ messages[0].content.missing.name }}": "UndefinedError",
    "{{ 1 + 'a' }}": "TypeError",
    "{{ 1 // 0 }}": "ZeroDivisionError",
    "{% for m in messages %}{% endfor %}": "writes nothing",
    " \n ": "writes nothing",
}


@pytest.fixture
def processor() -> Any:
    return tiny_llava_with_processor()[1]


@pytest.mark.parametrize(("template", "told"), BROKEN.items())
def test_a_template_that_fails_or_gives_nothing_is_a_model_error(template: str, told: str, processor: Any) -> None:
    processor.chat_template = template
    item = Item(id="q", task="t", question="?", answer="a")
    with pytest.raises(ModelError, match=told):
        render_prompt(processor, item)
    with pytest.raises(ModelError, match=rf"{told}.*data\.chat_template"):
        encode(mixed_conversations()[3], processor)


@pytest.mark.parametrize(("template", "told"), BROKEN.items())
def test_a_template_of_the_configuration_is_named_by_its_file(
    template: str, told: str, processor: Any, tmp_path: Path
) -> None:
    (tmp_path / "t.jinja").write_text(template)
    with pytest.raises(ConfigError, match=rf"^data\.chat_template: .*t\.jinja: .*{told}"):
        use_chat_template(processor, tmp_path / "t.jinja")


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_template_that_cannot_be_read_is_named_by_its_file(
    content: bytes | None, processor: Any, tmp_path: Path
) -> None:
    file = tmp_path / "t.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^data\.chat_template: .*t\.jinja"):
        use_chat_template(processor, file)


def test_a_template_without_a_place_for_the_image_is_told(processor: Any) -> None:
    processor.chat_template = "{% for m in messages %}{{ m['role'] }} {% endfor %}"
    with pytest.raises(ModelError, match=r"refuses the text 'user .*one place for each image"):
        encode(next(c for c in mixed_conversations() if c.images), processor)


@pytest.mark.parametrize("error", [ValueError("ratio"), TypeError("ratio"), KeyError("ratio"), RuntimeError("ratio")])
def test_what_a_processor_raises_is_told(error: Exception) -> None:
    def refuses(**inputs: Any) -> Any:
        raise error

    with pytest.raises(ModelError, match=r"refuses the text 'ab'.*ratio"):
        process(refuses, text=["ab"])


@pytest.mark.parametrize("answer", ["<image>", "a <image> of it", "red <image>"])
def test_a_placeholder_in_an_answer_is_told_with_its_item(answer: str, processor: Any) -> None:
    item = Item(id="q7", task="t", question="?", answer=answer)
    with pytest.raises(DataError, match=r"item q7: the image token <image> stands in an answer"):
        encode_item(processor, item, [answer, "other"])
