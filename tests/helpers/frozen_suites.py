"""What every shipped suite asks, as a frozen file; `python -m helpers.frozen_suites` (in tests/) writes it anew.

It refuses to where a suite asks otherwise under the same version: raise the version first.
"""

import json
from pathlib import Path
from typing import Any

from helpers.tiny_llava import tiny_llava_with_processor
from textanchor.evaluation.registry import SUITES, load_suite
from textanchor.evaluation.scoring.prompting import render_prompt
from textanchor.evaluation.suite import image_hash, suite_hash
from textanchor.files import sha256_of_json
from textanchor.vlm.embedded import CHAT_TEMPLATE

FROZEN = Path(__file__).parents[1] / "contract" / "frozen_suites.json"
NUM_ITEMS = 24


def asked_by(name: str) -> dict[str, Any]:
    """Version and hashes of the first items of a suite, with one of its prompts to read."""
    suite: Any = load_suite(name, num_items=NUM_ITEMS)
    found = {"version": suite.version, "suite": suite_hash(suite)}
    if not hasattr(suite, "items"):
        return {**found, "first": next(iter(suite.texts.values()))[:80]}
    processor = tiny_llava_with_processor()[1]
    processor.chat_template = CHAT_TEMPLATE
    prompts = [render_prompt(processor, item) for item in suite.items]
    answers = [[item.id, item.answer, item.choices, item.objects, item.references] for item in suite.items]
    return {
        **found,
        "prompts": sha256_of_json(prompts),
        "answers": sha256_of_json(answers),
        "pixels": sha256_of_json([image_hash(item.image) for item in suite.items]),
        "first": prompts[0],
    }


def frozen() -> dict[str, dict[str, Any]]:
    """By suite, what `asked_by` gave when the file was written."""
    return json.loads(FROZEN.read_text(encoding="utf-8"))


def main() -> None:
    before = frozen() if FROZEN.is_file() else {}
    now = {name: asked_by(name) for name in SUITES}
    changed = [
        name
        for name, found in now.items()
        if name in before and found != before[name] and found["version"] == before[name]["version"]
    ]
    if changed:
        raise SystemExit(f"{', '.join(changed)}: ask otherwise under the same version; raise it first")
    FROZEN.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
