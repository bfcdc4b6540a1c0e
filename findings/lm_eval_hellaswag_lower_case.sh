#!/usr/bin/env bash
# lm-eval asks HellaSwag with names in lower case: it calls str.capitalize on the second context.
# Seen: 2026-11-28, Python 3.11, lm-eval 0.4.13.
# Input: a row in HellaSwag's published columns whose second context holds names and an abbreviation.
# Behaviour: str.capitalize makes a capital of the first letter and small letters of all others. Other readers of the
# same file that capitalise the first letter only, or join the contexts as they are, ask something else.
# Output: Tennis: Two players meet. Rafael nadal of spain, in a nasa shirt,
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q lm-eval==0.4.13
venv/bin/python - <<'PYTHON'
import datasets
from lm_eval.tasks.hellaswag.utils import process_docs

row = {"activity_label": "Tennis", "ctx_a": "Two players meet.", "ctx_b": "Rafael Nadal of Spain, in a NASA shirt,",
       "endings": ["serves.", "sings."], "label": "0"}
(asked,) = process_docs(datasets.Dataset.from_list([row]))
print(asked["query"])
assert asked["query"] == "Tennis: Two players meet. Rafael nadal of spain, in a nasa shirt,"
PYTHON
