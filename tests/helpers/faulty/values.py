"""Damage to what files hold: text, bytes, and plain values of mappings and lists."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

Path = tuple[str | int, ...]
"""Keys and positions from the outside to a value."""
BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))


def damaged_yaml(text: str, chance: random.Random) -> bytes:
    """YAML that is none, or that says what a configuration cannot."""
    line = chance.choice([line for line in text.splitlines() if line and not line.startswith((" ", "-"))])
    lines = text.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    forms: list[Callable[[], str | bytes]] = [
        lambda: "".join([*lines[:at], "\t", *lines[at:]]),
        lambda: f"{text}more: [1, 2\n",
        lambda: f'{text}more: "open\n',
        lambda: f"{text}{line.split(':')[0]}: 1\n",
        lambda: f"{text}? [a, b]\n: 1\n",
        lambda: f"{text}{chance.randrange(9)}: 1\n",
        lambda: f"{text}more: {'[' * 3000}{']' * 3000}\n",
        lambda: f"{text}more: {'9' * 6000}\n",
        lambda: f"{text}a0: &a0 [1]\n{BOMB}",
        lambda: f"{text}more: !!python/object/apply:os.getcwd []\n",
        lambda: f"{text}more: !own 3\n",
        lambda: f"{text}more: *nothing\n",
        lambda: f"{text}more: &a [*a]\n",
        lambda: f"{text}---\n{text}",
        lambda: f"{text}{'#' * 2**21}\n",
        lambda: f"more: .inf\n{text}",
        lambda: 'more: "\\ud800"\n' + text,
        lambda: "- a\n- b\n",
        lambda: "3\n",
        lambda: "",
        lambda: _inserted(text.encode(), b"\xff\xfe", chance),
        lambda: _inserted(text.encode(), b"\x00", chance),
    ]
    found = chance.choice(forms)()
    return found if isinstance(found, bytes) else found.encode()


def damaged_json(text: str, chance: random.Random) -> bytes:
    """JSON that is none, or that holds what no file of ours or of Transformers does."""
    content = text.encode()
    forms: list[Callable[[], bytes]] = [
        lambda: content[: chance.randrange(1, max(2, len(content) - 2))].rstrip(b"]}\n 0123456789"),
        lambda: b"\xff\xfe" + content,
        lambda: content.rstrip() + b"}",
        lambda: b"[" * 100_000,
        lambda: b"9" * 6000,
        lambda: b"[" * 60 + b"]" * 60,
        lambda: b"",
        lambda: b"nothing",
        lambda: b"\x00" * 100,
        lambda: b"3",
        lambda: b"null",
        lambda: b'"text"',
    ]
    return chance.choice(forms)()


def _inserted(content: bytes, what: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + what + content[at:]


def damaged_weights(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose length, header or offsets are wrong."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = chance.choice([key for key in header if key != "__metadata__"])
    start, end = header[name]["data_offsets"]
    far = 10 ** chance.randrange(9, 18)

    def with_header(**changes: Any) -> bytes:
        text = json.dumps(header | {name: header[name] | changes}).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    forms: list[Callable[[], bytes]] = [
        lambda: content[: chance.randrange(len(content))],
        lambda: b"",
        lambda: chance.randbytes(200),
        lambda: far.to_bytes(8, "little") + content[8:],
        lambda: content + b"more",
        lambda: with_header(data_offsets=[far, far + end - start]),
        lambda: with_header(data_offsets=[end, start]),
        lambda: with_header(data_offsets=[-4, end - start - 4]),
        lambda: with_header(data_offsets=[start]),
        lambda: with_header(dtype="F99"),
        lambda: with_header(shape=[far, far]),
        lambda: with_header(shape="wide"),
        lambda: (100).to_bytes(8, "little") + b"{" * 100,
    ]
    return chance.choice(forms)()


def places(value: Any, before: Path = ()) -> Iterator[Path]:
    """Paths of everything inside of a value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*before, key)
        yield from places(entry, (*before, key))


def at(value: Any, path: Path) -> Any:
    """What lies at a path."""
    for key in path:
        value = value[key]
    return value


def replaced(value: Any, path: Path, new: Any) -> Any:
    """A copy in which something else lies at a path."""
    value = copy.deepcopy(value)
    at(value, path[:-1])[path[-1]] = new
    return value


def removed(value: Any, path: Path) -> Any:
    """A copy without what lies at a path."""
    value = copy.deepcopy(value)
    del at(value, path[:-1])[path[-1]]
    return value


def misspelt(key: str, chance: random.Random) -> str:
    """The key with a letter too many."""
    i = chance.randrange(len(key))
    return key[:i] + "x" + key[i:]
