"""Prompts of the local language tasks are frozen: who changes one raises the version of LanguageSuite."""

from textanchor.evaluation.language.local import TASKS, local_tasks
from textanchor.evaluation.suites.language import LanguageSuite
from textanchor.files import sha256_of_file

FROZEN = {
    "2": {
        "arc_challenge": "faece3abdb4b6648",
        "arc_easy": "a5454cc375308357",
        "gsm8k": "8ee9f877a575f66e",
        "hellaswag": "49344c99da8e568e",
        "mmlu": "bbea8d12455063ea",
        "openbookqa": "78eb2c4f0f56c3b0",
        "piqa": "cd03d2d558d97f05",
    },
}


def test_prompts_are_those_of_their_version() -> None:
    assert {task: sha256_of_file(TASKS / f"{task}.yaml")[:16] for task in local_tasks()} == FROZEN[
        LanguageSuite.version
    ]
