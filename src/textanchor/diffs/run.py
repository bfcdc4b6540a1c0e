"""`diff`: open two checkpoints, match their tensors, compare them one by one, and say what it means."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from textanchor.config import to_dict
from textanchor.diffs.adapted import AdaptedCheckpoint
from textanchor.diffs.compare import Change, Source, compare
from textanchor.diffs.evidence import Evidence, Stray, entries_that_are
from textanchor.diffs.findings import find
from textanchor.diffs.intruders import count_intruders, is_affordable
from textanchor.diffs.merges import MergeFit
from textanchor.diffs.pair import Given, Pair
from textanchor.diffs.report import AnchorSummary, DiffReport
from textanchor.diffs.rows import TensorRow, part_rows
from textanchor.diffs.strays import StrayFile
from textanchor.diffs.structure import GROUPS, PartNames
from textanchor.diffs.text_anchor import TextAnchor, count_tokens, fit_text_anchor
from textanchor.errors import ConfigError, ModelError
from textanchor.records import environment, memory_cost

Progress = Callable[[int, int], None]
"""Called with the bytes of the base that were compared, and those to compare in all."""
FREEZABLE = tuple(group for group in GROUPS if group != "other")


def diff(
    base: Given,
    tuned: Given,
    *,
    adapter: str | Path | None = None,
    texts: Sequence[str] | None = None,
    frozen: Sequence[str] = (),
    vision_tower: str | None = None,
    projector: str | Sequence[str] | None = None,
    language_model: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> DiffReport:
    """What happened between two checkpoints of one vision-language model, tensor by tensor, without running it.

    `tuned` may be a PEFT adapter's folder. `adapter`: the adapter that was merged into `tuned`, to see whether and how
    often it was (found by itself where it lies beside the weights). `texts` weight the text anchor by their tokens.
    `frozen`: parts that were meant to stay. `vision_tower`, `projector` and `language_model` name parts as in
    `find_parts`. Of two state dicts, parts are told by names alone. ModelError where the base is incomplete, weights
    are pickled, or the two are different models.
    """
    began = time.monotonic()
    unknown = [part for part in frozen if part not in FREEZABLE]
    if unknown:
        raise ConfigError(f"frozen: {unknown[0]!r} is no part; the parts are {', '.join(FREEZABLE)}")
    names = PartNames(vision_tower, projector, language_model)
    pair = Pair(base, tuned, adapter, names)
    anchor = _anchor(pair, texts)
    comparison = _Comparison(pair, anchor, seed, progress)
    rows = comparison.run()
    parts = part_rows(rows)
    evidence = Evidence(
        rows=rows,
        parts=parts,
        matching=pair.matching,
        problems=pair.problems,
        loaded=pair.loaded,
        strays=tuple(_stray(stray, pair) for stray in pair.strays),
        refusal=pair.refusal,
        lora=pair.tuned_names.lora,
        unexpected=pair.tuned_names.unexpected if pair.structure.model is not None else (),
        unmatched=pair.tuned.adapter.unmatched if isinstance(pair.tuned, AdaptedCheckpoint) else (),
        num_adapter_tensors=len(pair.tuned.adapter.weights.tensors) if isinstance(pair.tuned, AdaptedCheckpoint) else 0,
        wrapped=pair.tuned_names.wrapped,
        merges=comparison.merges,
        unchecked_adapter=pair.unchecked_adapter,
        frozen=frozenset(frozen),
        parts_not_found=pair.structure.not_found,
        is_head_untied=pair.is_head_untied(),
        is_tied_by_config=pair.is_tied_by_config,
    )
    options = {"adapter": None if adapter is None else str(adapter), "frozen": list(frozen), "seed": seed}
    options |= to_dict(names)
    return DiffReport(
        base=pair.base.label,
        tuned=pair.label,
        findings=find(evidence),
        parts=parts,
        tensors=tuple(rows),
        anchor=None
        if anchor is None
        else AnchorSummary(source=anchor.source, width=anchor.width, counts=anchor.counts),
        notes=tuple(pair.notes()),
        record={
            "options": options | {"texts": None if texts is None else len(texts)},
            "cost": {"seconds": time.monotonic() - began, **memory_cost()},
            **to_dict(environment()),
        },
    )


class _Comparison:
    """Runs over the pairs."""

    def __init__(self, pair: Pair, anchor: TextAnchor | None, seed: int, progress: Progress | None) -> None:
        self.pair, self.anchor, self.seed, self.progress = pair, anchor, seed, progress
        self.merges: dict[str, MergeFit] = {}

    def run(self) -> list[TensorRow]:
        """One row for each tensor, in the model's order."""
        pair, matching = self.pair, self.pair.matching
        names = list(dict.fromkeys([*pair.base_names.stored_names, *matching.pairs]))
        total = sum(self._num_bytes(name) for name in names)
        rows, done, missing = [], 0, {*matching.missing, *matching.without_place}
        for name in sorted(names, key=self._place):
            if name in matching.pairs:
                rows.append(self._compared(name, *matching.pairs[name]))
                done += self._num_bytes(name)
                if self.progress is not None:
                    self.progress(done, total)
            elif name in missing or pair.is_adapter or pair.structure.model is None:
                rows.append(self._only_in_base(name))
        rows += [self._added(name) for name in matching.added]
        rows += [self._asked_for(name) for name in matching.missing if name not in pair.base_names.stored_names]
        order = {name: i for i, name in enumerate(pair.structure.shapes | pair.tuned_structure.shapes)}
        return sorted(rows, key=lambda row: order.get(row.name, len(order)))

    def _num_bytes(self, name: str) -> int:
        pair = self.pair.matching.pairs.get(name)
        return 0 if pair is None else self.pair.base.tensors[pair[0]].num_bytes

    def _place(self, name: str) -> tuple[str, int]:
        """Where the base's tensor lies: read in this order, files are read from front to back."""
        pair = self.pair.matching.pairs.get(name)
        stored = None if pair is None else self.pair.base.tensors[pair[0]]
        return ("", 0) if stored is None else (str(stored.path), stored.offset)

    def _compared(self, name: str, base_name: str, tuned_name: str) -> TensorRow:
        pair = self.pair
        base, tuned = Source(pair.base, base_name), Source(pair.tuned, tuned_name)
        is_writer = self.anchor is not None and pair.structure.writes_text(name)
        fits_anchor = is_writer and self.anchor is not None and base.stored.shape[0] == self.anchor.width
        change = compare(
            base,
            tuned,
            directions_DK=self.anchor.directions_DK if self.anchor is not None and fits_anchor else None,
            expected=pair.expected_update(name),
            seed=self.seed,
        )
        if change.num_bad_in_base:
            raise ModelError(
                f"{pair.base.label}: {name} has {entries_that_are(change.num_bad_in_base)} NaN or infinite, so nothing "
                "can be compared with it; copy or download the base again"
            )
        if change.merge is not None:
            self.merges[name] = change.merge
        return TensorRow(
            name=name,
            part=pair.structure.group_of(name),
            status=change.status,
            shape=tuned.stored.shape,
            base_dtype=_dtype_name(base),
            tuned_dtype=_dtype_name(tuned),
            relative=change.relative,
            norm_ratio=change.norm_ratio,
            rank=change.rank,
            is_rank_larger=change.is_rank_larger,
            stable_rank=change.stable_rank,
            text_shares=self._shares(change),
            intruders=_intruders(change, base, tuned),
            num_bad=change.num_bad,
            base_energy=change.base_energy,
            update_energy=change.update_energy,
        )

    def _shares(self, change: Change) -> tuple[float, ...] | None:
        if self.anchor is None or change.text_energies_K is None or not change.update_energy:
            return None
        return self.anchor.shares(change.text_energies_K, change.update_energy)

    def _only_in_base(self, name: str) -> TensorRow:
        base = Source(self.pair.base, self.pair.base_names.stored_names[name])
        return TensorRow(
            name=name,
            part=self.pair.structure.group_of(name),
            status="equal" if self.pair.is_adapter else "missing",
            shape=base.stored.shape,
            base_dtype=_dtype_name(base),
        )

    def _asked_for(self, name: str) -> TensorRow:
        """The row of a tensor that the tuned configuration asks for, and neither checkpoint stores as it is."""
        shape = self.pair.tuned_structure.shapes[name]
        return TensorRow(name=name, part=self.pair.structure.group_of(name), status="missing", shape=shape)

    def _added(self, name: str) -> TensorRow:
        tuned = Source(self.pair.tuned, self.pair.tuned_names.stored_names[name])
        return TensorRow(
            name=name,
            part=self.pair.structure.group_of(name),
            status="added",
            shape=tuned.stored.shape,
            tuned_dtype=_dtype_name(tuned),
        )


def _stray(file: StrayFile, pair: Pair) -> Stray:
    counts = Counter(map(pair.structure.group_of_stored, file.tensors or ()))
    return Stray(file.name, file.is_pickled, None if file.tensors is None else counts)


def _intruders(change: Change, base: Source, tuned: Source) -> int | None:
    if change.status != "changed" or change.num_bad or not is_affordable(base.stored.shape):
        return None
    num_rows = base.stored.num_rows
    return count_intruders(base.rows(0, num_rows), tuned.rows(0, num_rows))


def _dtype_name(source: Source) -> str:
    return source.stored.quantised or str(source.stored.dtype).removeprefix("torch.")


def _anchor(pair: Pair, texts: Sequence[str] | None) -> TextAnchor | None:
    """The text anchor, where an update may be written into text space."""
    parts, names = pair.structure.parts, pair.base_names.stored_names
    writers = [name for name in pair.matching.pairs if pair.structure.writes_text(name)]
    embedding = None if parts is None else names.get(f"{parts.input_embedding}.weight")
    if embedding is None or not any(_may_differ(pair, name) for name in writers):
        if texts is not None and embedding is None:
            raise ModelError(f"{pair.base.label}: texts need the base's input embedding, which was not found")
        return None
    return fit_text_anchor(Source(pair.base, embedding), _token_counts(pair, texts))


def _may_differ(pair: Pair, name: str) -> bool:
    """Whether the first block of a tensor differs: enough to know that an anchor is worth its cost."""
    base_name, tuned_name = pair.matching.pairs[name]
    base, tuned = Source(pair.base, base_name), Source(pair.tuned, tuned_name)
    if base.stored.shape != tuned.stored.shape:
        return False
    height = min(8, base.stored.num_rows)
    return not base.rows(0, height).float().equal(tuned.rows(0, height).float())


def _token_counts(pair: Pair, texts: Sequence[str] | None) -> Counter[int] | None:
    if texts is None:
        return None
    from transformers import AutoTokenizer

    folder = pair.base.folder
    if folder is None:
        raise ModelError(f"{pair.base.label}: texts need the base's tokenizer beside its weights; give its folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"{folder}: its tokenizer cannot be read ({' '.join(str(error).split())[:200]}); leave texts out"
        ) from error
    return count_tokens(tokenizer, texts)
