"""HoldPlan as a table for people: tensors that differ only by a layer's number share a row."""

import re
from collections.abc import Iterable

from textanchor.holds.entries import NOT_TRAINED, HeldTensor
from textanchor.tables import Table

HEADER = ("part", "tensor", "number", "rule", "why")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


def plan_table(tensors: Iterable[HeldTensor]) -> str:
    """Rows of part, tensor (layers as *), number of tensors, rule and why (numbers that differ as least-largest).

    Tensors that are frozen because they were not trained in the first place share one row per part.
    """
    groups: dict[tuple[str, str, str], list[str]] = {}
    for tensor in sorted(tensors, key=lambda tensor: tensor.why == NOT_TRAINED):
        name = "(others)" if tensor.why == NOT_TRAINED else LAYER.sub("*", tensor.name)
        key = (tensor.part, name, tensor.rule)
        groups.setdefault(key, []).append(tensor.why)
    rows = [(part, name, str(len(whys)), rule, merged_numbers(whys)) for (part, name, rule), whys in groups.items()]
    return Table(HEADER, rows).aligned()


def merged_numbers(texts: list[str]) -> str:
    """One text for several that differ in numbers only; otherwise the distinct ones in order."""
    if len({NUMBER.sub("", text) for text in texts}) > 1:
        return "; ".join(dict.fromkeys(texts))
    columns = zip(*(NUMBER.findall(text) for text in texts), strict=True)
    ranges = [sorted(set(column), key=float) for column in columns]
    merged = iter(f"{column[0]}-{column[-1]}" if len(column) > 1 else column[0] for column in ranges)
    return NUMBER.sub(lambda _: next(merged), texts[0])
