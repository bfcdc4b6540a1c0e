"""YAML of plain values, as configurations have them: what YAML would read in a surprising way is refused.

Keys are text and each is given once, 1e-3 is a number, a date is text, and there are no other types than mappings,
lists, text, numbers, true, false and null. Size and nesting are bounded: a short file with aliases of aliases may stand
for a value without end.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from textanchor.errors import ConfigError, shown
from textanchor.files import MOST_LEVELS

MOST_BYTES = 2**20
"""Of a file; configurations have some thousand."""
MOST_VALUES = 100_000
"""Keys and values of a file, where an alias counts as many as what it stands for."""
TAG = "tag:yaml.org,2002:"
MERGE = f"{TAG}merge"
PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping that a YAML file holds; ConfigError naming file and line where it is not one."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path}: more than {MOST_BYTES:,} bytes, so this is no configuration; check the path")
    try:
        value = parse_yaml(content.decode())
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML ({error.problem})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found a {type(value).__name__}")
    return value


def parse_yaml(text: str) -> Any:
    """The value that a text stands for; yaml.YAMLError where it is not the YAML of this module."""
    return yaml.load(text, Loader=_Loader)


def to_yaml(value: Any) -> str:
    """Plain values as text that `parse_yaml` reads back to equal ones."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str):
        super().__init__(text)
        self._num_levels = self._num_values = 0
        self._sizes: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event, before = self.peek_event(), self._num_values
        is_alias = isinstance(event, yaml.AliasEvent)
        if is_alias and event.anchor in self.anchors and event.anchor not in self._sizes:
            raise ComposerError(problem=f"*{event.anchor} is inside of what it names", problem_mark=event.start_mark)
        self._num_levels += 1
        self._num_values += self._sizes.get(event.anchor, 1) if is_alias else 1
        if self._num_levels > MOST_LEVELS or self._num_values > MOST_VALUES:
            problem = f"more than {MOST_LEVELS} levels, or {MOST_VALUES:,} values"
            raise ComposerError(problem=problem, problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self._num_levels -= 1
        if event.anchor is not None and not is_alias:
            self._sizes[event.anchor] = self._num_values - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag not in (f"{TAG}str", MERGE):
                problem = f"the key {shown(key_node.value)} is not read as text; put it in quotes"
            elif key_node.value in seen:  # PyYAML keeps the last
                problem = f"the key {shown(key_node.value)} is given twice"
            else:
                seen.add(key_node.value)
                continue
            raise ComposerError(problem=problem, problem_mark=key_node.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError) as error:  # more digits than Python reads, or a tag that does not fit
            raise ConstructorError(
                problem=f"{shown(node.value)} cannot be read ({error})", problem_mark=node.start_mark
            ) from error


_Loader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(TAG) in PLAIN  # None: what refuses any other
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in (MERGE, *(TAG + kind for kind in PLAIN))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    pass


for _side in (_Loader, _Dumper):  # YAML 1.1 reads 1e-3 as text; the dumper then puts the text "1e-3" in quotes
    _side.add_implicit_resolver(f"{TAG}float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))
