"""docs/families.md, from the rows that were tried; read back by the tests that hold the page to them."""

from collections.abc import Sequence

from helpers.family_table import COLUMNS, NEEDS_PARTS, WORKS, FamilyRow
from helpers.tiny_families import TINY
from helpers.tiny_families_shrunk import SHRUNK
from helpers.tiny_models import model_type_of
from textanchor.vlm.families import FAMILIES

HEADER = f"| family | {' | '.join(COLUMNS)} |"
TEXT = """\
# What works in which family

Every model type that Transformers 5.23 takes images and text with, and Phi-4 multimodal, tried on a tiny random model
of its class: two layers, width 32, no download. `pytest -m long tests/contract/test_families_page.py` tries them all
again and writes this page. Real checkpoints of a family have the same classes and so the same parts; what else may
differ in them, such as their processors, is not tried here.

| column | what was done |
| --- | --- |
| parts | `find_parts`; that images reach the language model through this projector alone is tested by cutting it |
| anchor | `fit_anchor` on texts and on batches of the model's own inputs, for every linear that may be held |
| hold | the projector in full under mode `inputs`, three steps of AdamW; the audit kept |
| save and diff | base and tuned model saved; `diff` reads both and says that the projector moved, and nothing else |
| LoRA with projector | LoRA on the language model, the projector in full, both held by their inputs; the audit kept |

A family that is refused says why; with parts named by hand (`find_parts(model, projector=...)`) more may work.
"""


def entries() -> list[str]:
    """One tiny model of each model type, by the order of model types."""
    by_type: dict[str, str] = {}
    for name in (*TINY, *SHRUNK):
        model_type = model_type_of(name)
        if name == model_type or model_type not in by_type:
            by_type[model_type] = name
    return [by_type[model_type] for model_type in sorted(by_type)]


def rows_without_model(rows: Sequence[FamilyRow]) -> list[FamilyRow]:
    """Of families whose class AutoModel refuses to build, so that the table's word stands alone."""
    tried = {row.model_type for row in rows}
    empty = (NEEDS_PARTS,) * (len(COLUMNS) - 1)
    return [FamilyRow(name, (family.lacks, *empty)) for name, family in FAMILIES.items() if name not in tried]


def written(row: FamilyRow) -> str:
    """The line of a family."""
    return f"| {row.model_type} | {' | '.join(cell.replace('|', chr(92) + '|') for cell in row.cells)} |"


def page(rows: Sequence[FamilyRow]) -> str:
    """The whole page."""
    rows = sorted([*rows, *rows_without_model(rows)], key=lambda row: row.model_type)
    found = sum(row.cells[0] == WORKS for row in rows)
    passing = sum(row.passes for row in rows)
    summary = (
        f"Of {len(rows)} families the parts of {found} are found, and everything works in {passing}; the other "
        f"{len(rows) - found} have no such parts, and are refused in these words."
    )
    return "\n".join([TEXT, summary, "", HEADER, "| --- " * (len(COLUMNS) + 1) + "|", *map(written, rows), ""])
