"""Suites from the user's own files: tasks, POPE questions and captions of a folder (formats: docs/evaluation.md)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from textanchor.data.balance import balanced
from textanchor.data.folder import read_items
from textanchor.data.hallucination import STRATEGIES, ObjectVocabulary
from textanchor.data.items import Item
from textanchor.data.pope import object_items, question_files, read_questions
from textanchor.errors import DataError
from textanchor.evaluation.suite import AbstractSuite, SuiteOptions
from textanchor.evaluation.suites.captions import CaptionSuite, is_captioning, one_for_each_image
from textanchor.evaluation.suites.closed import ClosedSuite
from textanchor.evaluation.suites.pope import PopeSuite

SYNONYMS = "chair_synonyms.txt"
DESCRIBE = "Please describe this image in detail."
"""What LLaVA's and most other CHAIR numbers were asked with."""
MOST_NAMED = 5


def folder_suites(path: Path, *, num_items: int | None, seed: int, options: SuiteOptions) -> list[AbstractSuite]:
    """A suite for each task in a folder's `data.jsonl`, or in a file.

    A task whose images all have `captions` is answered with captions; the others are questions.
    """
    items, malformed = _read(path, options)
    tasks = _by_task(items)
    suites: list[AbstractSuite] = []
    for task, own in tasks.items():
        name = _name(path) if len(tasks) == 1 else f"{_name(path)}/{task}"
        if is_captioning(own):
            drawn = _drawn(one_for_each_image(own), num_items, seed)
            suites.append(CaptionSuite(name=name, items=drawn, malformed=malformed))
        else:
            drawn = _drawn(own, num_items, seed)
            suites.append(ClosedSuite(name=name, items=drawn, free_answers=options.free_answers, malformed=malformed))
    return suites


def pope_suites(path: Path, *, num_items: int | None, seed: int, options: SuiteOptions) -> list[AbstractSuite]:
    """POPE of a question file, of the question files in a folder, or made from the objects in its `data.jsonl`.

    `num_items` is of each strategy, half of them with the answer yes.
    """
    problems: list[str] = []
    files = question_files(path)
    image_folder = options.image_folder or (path if path.is_dir() else path.parent)
    if files:
        read = [read_questions(file, strategy, image_folder, problems=problems) for strategy, file in files.items()]
        asked = list(_by_task(item for items in read for item in items).values())
        malformed = accepted(path, problems, sum(map(len, asked)), options)
    else:
        items, malformed = _read(path, options)
        shown = {item.image_id: item for item in items if item.image_id and item.objects and item.image is not None}
        objects = {image_id: item.objects for image_id, item in shown.items()}
        images = {image_id: item.image for image_id, item in shown.items() if item.image is not None}
        asked = [object_items(objects, images, strategy, seed=seed) for strategy in STRATEGIES]
    drawn = [item for items in asked for item in _drawn_by_answer(items, num_items, seed)]
    if not any(item.answer == "yes" for item in drawn):
        raise DataError(
            f"{path}: no question of POPE with the answer yes; give a file of questions, or a folder with files named "
            "pope_random.jsonl and so on, or with the `objects` of each image in data.jsonl"
        )
    name, free_answers = f"pope_{_name(path)}", options.free_answers
    return [PopeSuite(name=name, items=tuple(drawn), free_answers=free_answers, malformed=malformed)]


def chair_suites(path: Path, *, num_items: int | None, seed: int, options: SuiteOptions) -> list[AbstractSuite]:
    """CHAIR of a folder whose rows list all `objects` of their image; those that captions name count as there too."""
    items, malformed = _read(path, options)
    listed = [item for item in items if item.objects]
    if not listed:
        raise DataError(f"{path}: no row lists the `objects` of its image, which CHAIR compares captions with")
    synonyms = options.synonyms or path / SYNONYMS
    if options.synonyms is not None or synonyms.is_file():
        vocabulary = ObjectVocabulary.load(synonyms)
    else:
        vocabulary = ObjectVocabulary({name: () for item in listed for name in item.objects})
    captioned: dict[str, list[str]] = {}
    for item in items:
        captioned.setdefault(item.image_id or item.id, []).extend(item.references)
    asked = {
        image_id: replace(
            item,
            id=image_id,
            task="caption",
            question=DESCRIBE,
            choices=(),
            objects=_all_objects(image_id, item.objects, captioned[image_id], vocabulary),
            references=tuple(dict.fromkeys(captioned[image_id])),
        )
        for item in listed
        if (image_id := item.image_id or item.id)
    }
    drawn = _drawn(list(asked.values()), num_items, seed)
    return [CaptionSuite(name=f"chair_{_name(path)}", items=drawn, vocabulary=vocabulary, malformed=malformed)]


def _all_objects(
    image_id: str, objects: Sequence[str], captions: Sequence[str], vocabulary: ObjectVocabulary
) -> tuple[str, ...]:
    """What is in the image, by its lists and its captions, as the vocabulary calls it."""
    if unknown := [name for name in objects if vocabulary.named(name) is None]:
        raise DataError(
            f"image {image_id}: its object {unknown[0]!r} is not in the vocabulary; add it there, or its mentions are "
            "lost"
        )
    said = (name for caption in captions for name in vocabulary.mentions(caption))
    return tuple(dict.fromkeys((*(name for o in objects if (name := vocabulary.named(o)) is not None), *said)))


def _read(path: Path, options: SuiteOptions) -> tuple[list[Item], tuple[str, ...]]:
    problems: list[str] = []
    items = read_items(path, split=options.split, image_folder=options.image_folder, problems=problems)
    return items, accepted(path, problems, len(items), options)


def accepted(path: Path, problems: Sequence[str], num_items: int, options: SuiteOptions) -> tuple[str, ...]:
    """The problems, where they may be left out and something remains; DataError that names the first of them."""
    if problems and not (options.skip_malformed and num_items):
        more = f"; and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        raise DataError(
            f"{path}: {len(problems)} malformed rows beside {num_items} sound ones; mend them, or leave them out with "
            f"--skip-malformed. {'; '.join(problems[:MOST_NAMED])}{more}"
        )
    if not num_items:
        raise DataError(f"{path}: holds no rows, so there is nothing to ask")
    return tuple(problems)


def _by_task(items: Iterable[Item]) -> dict[str, list[Item]]:
    tasks: dict[str, list[Item]] = {}
    for item in items:
        tasks.setdefault(item.task, []).append(item)
    return tasks


def _name(path: Path) -> str:
    return path.resolve().name if path.is_dir() else path.stem


def _drawn_by_answer(items: Sequence[Item], num_items: int | None, seed: int) -> list[Item]:
    """All items, or `num_items` of them with every answer equally often, in the order of the file."""
    if num_items is None:
        return list(items)
    shuffled = (items[int(i)] for i in np.random.default_rng([seed, 0xF01D]).permutation(len(items)))
    chosen = {item.id for item in islice(balanced(shuffled), num_items)}
    return [item for item in items if item.id in chosen]


def _drawn(items: Sequence[Item], num_items: int | None, seed: int) -> tuple[Item, ...]:
    """All items, or `num_items` of them drawn by the seed, in the order of the file."""
    if num_items is None or num_items >= len(items):
        return tuple(items)
    chosen = np.random.default_rng([seed, 0xF01D]).permutation(len(items))[:num_items]
    return tuple(items[int(i)] for i in sorted(chosen))
