"""What holds cost: step time and peak memory beside the same step without them, and set-up beside other methods'.

    python benchmarks/hold_cost.py --record cost.json
    python benchmarks/hold_cost.py --only setup "R1 projector" --pairs 5 --record cost.json

Step times are medians over pairs: one process takes a step with the hold and one without it in turn, on one thread,
and counts processor time, so that other work on the machine weighs little. Where a hold acts after the optimizer's step
only that part of a step differs, so `ratio` is that of whole steps with the same median forward and backward pass; the
median over pairs of whole steps stands beside it, with the noise of both passes. Peak memory is the resident maximum of
a process that takes steps with the hold, over that of one that takes them without. A hold acts once for each optimizer
step, whatever the number of its tokens: so that the ratio falls with it, it is measured at the demo's batch and at
larger ones, the largest of them accumulated from smaller batches. The projector shapes of 7B models are measured alone
and with the first decoder layer of the model's shape behind them, frozen, with random weights. The other layers of such
a model would make the step as much longer as there are layers, so both ratios are upper bounds.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hold_cost_projectors import projector_costs, seconds_of
from hold_cost_setup import setup_costs, texts

import textanchor as ta
from textanchor.data.tasks import load_conversations
from textanchor.files import write_json
from textanchor.holds import HoldHandle, HoldPlan
from textanchor.records import environment
from textanchor.training.collate import Collator
from textanchor.training.config import PartConfig, PartsConfig
from textanchor.training.dataset import EncodedConversations
from textanchor.training.trainable import set_up_training, trained_parameters
from textanchor.vlm.parts import VLMParts

FROZEN, FULL, LORA = (PartConfig(train=train) for train in ("frozen", "full", "lora"))
SETTINGS = {
    "R1 projector": PartsConfig(projector=FULL, language_model=FROZEN),
    "R2 projector + LoRA": PartsConfig(projector=FULL, language_model=LORA),
    "full language model": PartsConfig(projector=FROZEN, language_model=FULL),
}
OUTPUTS: dict[str, Any] = {"mode": "outputs", "num_kept": 64}
INPUTS: dict[str, Any] = {"mode": "inputs"}
HOLDS: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "R1 projector": {
        "exact": {"projector": OUTPUTS},
        "share": {"projector": OUTPUTS | {"hold": "share"}},
        "decay": {"projector": OUTPUTS | {"hold": "decay"}},
        "penalty": {"projector": OUTPUTS | {"hold": "penalty"}},
    },
    "R2 projector + LoRA": {
        "exact": {"projector": OUTPUTS, "language_model": INPUTS},
        "share": {"projector": OUTPUTS | {"hold": "share"}, "language_model": INPUTS | {"hold": "share"}},
    },
    "full language model": {"exact": {"language_model": INPUTS}},
}
"""Setting -> hold -> part -> its filter, but for the fraction of the language model's directions."""
TARGETS = {"R1 projector": 1.02, "R2 projector + LoRA": 1.02, "full language model": 1.10}
BATCHES = {8: 8, 32: 32, 64: 16}
"""Examples of a step -> of them in one forward pass; the others are accumulated."""
SIZES = {"R1 projector": (8,), "R2 projector + LoRA": (8, 32), "full language model": (8, 32, 64)}
"""Examples of a step; what is held of the language model costs the most, so it is measured on more of them too."""
LARGE_PAIRS = 3

Batches = list[dict[str, torch.Tensor]]


def prepared(setting: str, batch_size: int) -> tuple[VLMParts, Any, Batches]:
    """The embedded model with what the setting trains, its processor and the batches of a step."""
    model, processor = ta.load_vlm("embedded")
    parts = set_up_training(model, SETTINGS[setting], seed=0)
    examples = EncodedConversations(
        load_conversations("shape", split="train", num_images=batch_size), processor, max_tokens=None
    )
    collate, at_once = Collator(processor.tokenizer.pad_token_id or 0), BATCHES[batch_size]
    starts = range(0, batch_size, at_once)
    return parts, processor, [collate([examples[i] for i in range(start, start + at_once)]) for start in starts]


Step = Callable[[], float]
"""One whole step; gives the processor seconds of the optimizer's part, in which holds act."""


def stepper(parts: VLMParts, batches: Batches, optimizer: torch.optim.Optimizer, handle: HoldHandle | None) -> Step:
    """Forward and backward of each batch, then the optimizer."""

    def step() -> float:
        optimizer.zero_grad()
        for batch in batches:
            loss = parts.model(**batch).loss
            if handle is not None and handle.penalty is not None:
                loss = loss + handle.penalty()
            (loss / len(batches)).backward()
        return seconds_of(optimizer.step)

    return step


def pairs(step: Step, handle: HoldHandle, optimizer: Any, num_pairs: int) -> dict[str, Any]:
    """Medians of processor seconds over steps with and without the hold, in turn, after one of each."""
    whole: dict[bool, list[float]] = {True: [], False: []}
    inside: dict[bool, list[float]] = {True: [], False: []}
    in_loss = False
    for i in range(num_pairs + 1):
        for held in (i % 2 == 0, i % 2 == 1):
            if held:
                handle.listen(optimizer)
                in_loss = handle.penalty is not None
            start = time.process_time()
            inside[held].append(step())
            whole[held].append(time.process_time() - start)
            if held:
                handle.remove()
                handle.penalty = None
    ratios = [a / b for a, b in zip(whole[True][1:], whole[False][1:], strict=True)]
    passes = statistics.median(w - i for held in whole for w, i in zip(whole[held][1:], inside[held][1:], strict=True))
    steps = {held: passes + statistics.median(inside[held][1:]) for held in inside}
    return {
        "seconds_with": statistics.median(whole[True][1:]) if in_loss else steps[True],
        "seconds_without": statistics.median(whole[False][1:]) if in_loss else steps[False],
        "ratio": statistics.median(ratios) if in_loss else steps[True] / steps[False],
        "median_of_pairs": statistics.median(ratios),
        "seconds_of_rule": None if in_loss else steps[True] - steps[False],
        "pairs": ratios,
    }


def child(setting: str, plan_folder: str, batch_size: str, num_pairs: int) -> dict[str, Any]:
    """Time and memory of one hold; `plan_folder` "none" takes steps without one."""
    parts, _, batches = prepared(setting, int(batch_size))
    handle, plan = None, None
    if plan_folder != "none":
        plan = HoldPlan.load(Path(plan_folder), parts.model)
        plan.freeze(parts.model)
    optimizer = torch.optim.AdamW(trained_parameters(parts.model).values(), lr=1e-4, weight_decay=0.0)
    if plan is not None:
        handle = ta.attach(plan, optimizer, parts.model)
    step = stepper(parts, batches, optimizer, handle)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of loading does not count
    for _ in range(2):
        step()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    found: dict[str, Any] = {
        "batch_size": int(batch_size),
        "num_forward_passes": len(batches),
        "num_tokens": sum(int(batch["attention_mask"].sum()) for batch in batches),
    }
    found["peak_memory_mb"] = int(peak.split()[1]) / 1024
    if handle is not None:
        handle.remove()
        handle.penalty = None
        found |= pairs(step, handle, optimizer, num_pairs)
    return found


def run_child(setting: str, plan_folder: Path | str, batch_size: int, num_pairs: int) -> dict[str, Any]:
    """`child` in a process of its own."""
    arguments = ["--child", setting, str(plan_folder), str(batch_size), "--pairs", str(num_pairs)]
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


Rows = Iterator[dict[str, Any]]


def filters_of(setting: str, hold: str, kept_fraction: float) -> dict[str, ta.FilterConfig]:
    """What each part is held by."""
    held = {part: dict(options) for part, options in HOLDS[setting][hold].items()}
    if "language_model" in held:
        held["language_model"]["kept_fraction"] = kept_fraction
    return {part: ta.FilterConfig(**options) for part, options in held.items()}


def embedded_costs(num_pairs: int, wanted: list[str], kept_fraction: float) -> Rows:
    """A row for each setting and hold on the embedded model."""
    if not wanted:
        return
    model, processor = ta.load_vlm("embedded")
    needs_inputs = any("language_model" in filters for setting in wanted for filters in HOLDS[setting].values())
    anchor = ta.fit_anchor(model, processor, texts(), linears=None if needs_inputs else [])
    for setting in wanted:
        parts, _, _ = prepared(setting, SIZES[setting][0])
        without: dict[int, float] = {}
        for hold in HOLDS[setting]:
            held = filters_of(setting, hold, kept_fraction)
            with tempfile.TemporaryDirectory() as folder:
                plan = ta.plan_holds(parts, anchor, held)
                plan.save(Path(folder) / "plan")
                for size in SIZES[setting]:
                    if size not in without:
                        without[size] = run_child(setting, "none", size, 0)["peak_memory_mb"]
                    repeats = num_pairs if size == SIZES[setting][0] else min(num_pairs, LARGE_PAIRS)
                    found = run_child(setting, Path(folder) / "plan", size, repeats)
                    found["memory_ratio"] = found["peak_memory_mb"] / without[size]
                    named = {"model": "embedded", "setting": setting, "hold": hold, "target": TARGETS[setting]}
                    if "language_model" in held:
                        named["language_kept_fraction"] = kept_fraction
                    yield named | found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", type=Path)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--kept-fraction", type=float, default=0.3, help="of the language model's input directions")
    parser.add_argument("--only", choices=("setup", "projector", *SETTINGS), nargs="*")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--child", nargs=3, metavar=("SETTING", "PLAN", "SIZE"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        print(json.dumps(child(*options.child, num_pairs=options.pairs)))
        return
    wanted = options.only or ["setup", "projector", *SETTINGS]
    record: dict[str, Any] = {
        "command": ["python", "benchmarks/hold_cost.py", *sys.argv[1:]],
        **environment(),
        "threads": 1,
        "note": options.note,
        "task": "shape",
        "rows": [],
    }
    parts = [
        embedded_costs(options.pairs, [setting for setting in SETTINGS if setting in wanted], options.kept_fraction)
    ]
    parts += [projector_costs()] if "projector" in wanted else []
    parts += [setup_costs()] if "setup" in wanted else []
    for row in itertools.chain.from_iterable(parts):
        print({key: value for key, value in row.items() if key not in ("pairs", "rounds")}, flush=True)
        record["rows"].append(row)
        if options.record is not None:
            write_json(options.record, record)  # after each row, so that a run that is cut off leaves what it has


if __name__ == "__main__":
    main()
