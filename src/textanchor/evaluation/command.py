"""What `textanchor evaluate` runs, and the table that it prints."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textanchor.bounds import require_range, require_seed
from textanchor.config import to_dict
from textanchor.errors import ConfigError, DataError, TextanchorError
from textanchor.evaluation.registry import load_suites
from textanchor.evaluation.results.retention_report import Run, retention_report, retention_table
from textanchor.evaluation.results.summary import summary_lines
from textanchor.evaluation.run import RECORD, evaluate_to_folder, read_scores, require_evaluation_folder
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions, SuiteOptions
from textanchor.evaluation.suites.closed import ClosedSuite
from textanchor.evaluation.suites.language import LanguageSuite
from textanchor.evaluation.suites.text import TextSuite
from textanchor.files import cache_dir, read_json, write_json
from textanchor.outputs import claimed
from textanchor.records import RunRecord, Score
from textanchor.report.documents import RETENTION
from textanchor.vlm.loading import EMBEDDED, load_vlm
from textanchor.vlm.precision import Format, Precision, choose_precision

CACHE = "evaluations"


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation; printed, it is a table, and with a baseline one of what was kept and lost since then."""

    folder: Path
    record: RunRecord
    retention: dict[str, Any] | None
    """Content of retention.json, where there is a baseline."""

    def __str__(self) -> str:
        lines = summary_lines(self.record.scores)
        lines += _malformed_lines(self.record.extra["malformed_rows"])
        if self.retention is not None:
            lines += ["", retention_table(self.retention)]
        return "\n".join([*lines, "", f"rows, summary and record: {self.folder}"])


def evaluate_named(
    model: str | Path,
    suite_names: Sequence[str],
    *,
    num_items: int | None = None,
    seed: int = 0,
    out: Path,
    baselines: Sequence[Path] = (),
    tuned: Sequence[str] = (),
    against: Path | None = None,
    base: str | Path | None = None,
    options: SuiteOptions | None = None,
    precision: Precision = "auto",
    use_cache: bool = True,
    progress: bool = True,
) -> Evaluation:
    """Evaluate a model on suites, both by name, into the folder `out`.

    With folders of earlier evaluations, from the first to the last, as `baselines`, also retention.json and its page
    (`retention_report`, which says what `tuned` and `against`, the folder of another method's evaluation, are).
    `precision: auto` is that of the baselines, where there are some, else the faster one (`choose_precision`).
    The text suite measures the divergence from `base`: a model by name, for "embedded" its language model as published
    unless given. What was computed is kept in the user's cache, unless it is not to be used.
    """
    require_range("num_items", num_items, least=1)
    require_seed(seed)
    with claimed(out):
        require_evaluation_folder(out)
        suites = load_suites(suite_names, num_items=num_items, seed=seed, options=options)
        before = [Run(folder.name, _read_baseline(folder, suites, out)) for folder in baselines]
        other = None if against is None else _read_other(against, before)
        _require_known(tuned, suites, before)
        keep = _precision_of([*baselines, *([against] if against else [])], precision)
        config = {"model": str(model), "suites": list(suite_names), "num_items": num_items, "seed": seed}
        config |= {"base": None if base is None else str(base), "options": to_dict(options or SuiteOptions())}
        if progress:
            for suite in suites:
                if isinstance(suite, LanguageSuite):
                    print(suite.counts(), file=sys.stderr)
        loaded, processor = load_vlm(model)
        suites = _with_base(suites, model, base)
        chosen = choose_precision(loaded, precision, keep=keep)
        config["precision"] = chosen.record()
        cache = cache_dir() / CACHE if use_cache else None
        record = evaluate_to_folder(
            loaded,
            processor,
            suites,
            out,
            name=str(model),
            seed=seed,
            config=config,
            options=EvaluationOptions(precision=chosen.used),
            cache=cache,
            progress=progress,
        )
        if not before:
            return Evaluation(out, record, None)
        retention = retention_report([*before, Run(out.name, record.scores)], tuned=tuned, against=other)
        write_json(out / RETENTION.file, retention)
        RETENTION.build(retention, out / RETENTION.page)
        return Evaluation(out, record, retention)


def _read_baseline(folder: Path, suites: Sequence[AbstractSuite], out: Path) -> list[Score]:
    if folder.resolve() == out.resolve():
        raise TextanchorError(f"{out}: is the baseline itself; choose another output folder")
    before = read_scores(folder)
    _require_same_items(suites, before, folder)
    return before


def _read_other(folder: Path, before: Sequence[Run]) -> dict[str, Any]:
    if not before:
        raise ConfigError("--against compares what was kept since a baseline; give that with --baseline")
    return RETENTION.check(read_json(folder / RETENTION.file), source=str(folder / RETENTION.file))


def _precision_of(folders: Sequence[Path], asked: Precision) -> Format | None:
    """What the earlier evaluations were computed in; ConfigError where they or what is asked for differ."""
    found: dict[Path, Format] = {folder: _recorded_precision(folder) for folder in folders}
    for folder, used in found.items():
        for other, wanted in [*found.items(), (Path("--precision"), used if asked == "auto" else asked)]:
            if used != wanted:
                raise ConfigError(
                    f"{folder}: was scored in {used}, and {other} says {wanted}; scores of two precisions are not "
                    "compared, because rounding alone moves some answers: evaluate again with the same --precision"
                )
    return next(iter(found.values()), None)


def _recorded_precision(folder: Path) -> Format:
    extra = RunRecord.load(folder / RECORD).extra
    return extra.get("precision") or ("bfloat16" if extra["autocast"] else "float32")  # the key of earlier versions


def _require_known(tuned: Sequence[str], suites: Sequence[AbstractSuite], before: Sequence[Run]) -> None:
    if tuned and not before:
        raise ConfigError("--tuned says what was learned since a baseline; give that with --baseline")
    for name in tuned:
        if name not in {suite.name for suite in suites}:
            raise ConfigError(f"--tuned {name}: not evaluated here; {', '.join(suite.name for suite in suites)} are")


def _with_base(suites: Sequence[AbstractSuite], model: str | Path, base: str | Path | None) -> list[AbstractSuite]:
    """The suites, those of text with the base model, where there is one."""
    if not any(isinstance(suite, TextSuite) for suite in suites) or (base is None and model != EMBEDDED):
        return list(suites)
    if base is not None:
        loaded, _ = load_vlm(base)
    else:
        from textanchor.vlm.embedded import assemble  # reads the published weights

        loaded, _ = assemble()
    return [replace(suite, base=loaded) if isinstance(suite, TextSuite) else suite for suite in suites]


def _require_same_items(suites: Sequence[AbstractSuite], before: Sequence[Score], baseline: Path) -> None:
    """Found out before the evaluation, not when its table is written."""
    for suite in suites:
        then = {score.item_id for score in before if score.suite == suite.name}
        if isinstance(suite, ClosedSuite | LanguageSuite) and then and then != _item_ids(suite):
            raise DataError(
                f"{baseline}: its suite {suite.name!r} holds other items than this one, so the two cannot be paired; "
                "give the same --num-items and --seed as for the baseline"
            )


def _item_ids(suite: ClosedSuite | LanguageSuite) -> set[str]:
    return set(suite.item_ids) if isinstance(suite, LanguageSuite) else {item.id for item in suite.items}


def _malformed_lines(malformed: dict[str, list[str]]) -> list[str]:
    """How many rows of the user's files were left out, and which."""
    suites: dict[tuple[str, ...], list[str]] = {}
    for suite, problems in malformed.items():  # suites of one file share what is wrong with it
        suites.setdefault(tuple(problems), []).append(suite)
    return [
        line
        for problems, names in suites.items()
        for line in ("", f"{', '.join(names)}: left out {len(problems)} malformed rows", *(f"  {p}" for p in problems))
    ]
