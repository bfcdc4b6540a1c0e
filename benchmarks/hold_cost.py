"""What holds cost: step time and peak memory beside the same step without them, and set-up beside other methods'.

    python benchmarks/hold_cost.py --record docs/evidence/cost/holds.json
    python benchmarks/hold_cost.py --only setup "R1 projector" --pairs 5 --record cost.json

Step times are medians over pairs: one process takes a step with the hold and one without it in turn, on one thread,
and counts processor time, so that other work on the machine weighs little. Where a hold acts after the optimizer's step
only that part of a step differs, so `ratio` is that of whole steps with the same median forward and backward pass; the
median over pairs of whole steps stands beside it, with the noise of both passes. Peak memory is the resident maximum of
a process that takes steps with the hold, over that of one that takes them without. A hold acts once for each optimizer
step, whatever the number of its tokens: so that the ratio falls with it, it is measured at the demo's batch and at a
larger one. On the projector shapes of 7B models the step is that of the projector alone, without the language model
behind it, so the ratio is an upper bound.
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
from torch import nn

import textanchor as ta
from textanchor.data.tasks import load_conversations
from textanchor.data.texts import load_texts
from textanchor.files import write_json
from textanchor.holds import HoldHandle, HoldPlan
from textanchor.records import environment
from textanchor.training.adapters import AdapterTargets
from textanchor.training.collate import Collator
from textanchor.training.config import PartConfig, PartsConfig
from textanchor.training.dataset import EncodedConversations
from textanchor.training.trainable import set_up_training, trained_parameters
from textanchor.vlm.parts import VLMParts, find_parts

FROZEN, FULL, LORA = (PartConfig(train=train) for train in ("frozen", "full", "lora"))
SETTINGS = {
    "R1 projector": PartsConfig(projector=FULL, language_model=FROZEN),
    "R2 projector + LoRA": PartsConfig(projector=FULL, language_model=LORA),
    "full language model": PartsConfig(projector=FROZEN, language_model=FULL),
}
OUTPUTS: dict[str, Any] = {"mode": "outputs", "num_kept": 64}
INPUTS: dict[str, Any] = {"mode": "inputs", "kept_fraction": 0.3}
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
TARGETS = {"R1 projector": 1.02, "R2 projector + LoRA": 1.02, "full language model": 1.10}
SHAPES = {"LLaVA-1.5-7B": (1024, 4096, 4096), "Qwen2.5-VL-7B": (5120, 5120, 3584)}
NUM_IMAGE_TOKENS = 1152
BATCH_SIZE, LARGE_BATCH, LARGE_PAIRS = 8, 32, 3
NUM_TEXTS, NUM_LAYERS = 16, 3


def texts() -> list[str]:
    """The first of the shipped texts."""
    return [row.text for row in load_texts("train")[:NUM_TEXTS]]


def prepared(setting: str, batch_size: int) -> tuple[VLMParts, Any, dict[str, torch.Tensor]]:
    """The embedded model with what the setting trains, its processor and a batch."""
    model, processor = ta.load_vlm("embedded")
    parts = set_up_training(model, SETTINGS[setting], seed=0)
    examples = EncodedConversations(
        load_conversations("shape", split="train", num_images=batch_size), processor, max_tokens=None
    )
    batch = Collator(processor.tokenizer.pad_token_id or 0)([examples[i] for i in range(batch_size)])
    return parts, processor, batch


Step = Callable[[], float]
"""One whole step; gives the processor seconds of the optimizer's part, in which holds act."""


def stepper(
    parts: VLMParts, batch: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, handle: HoldHandle | None
) -> Step:
    """Forward, backward, optimizer."""

    def step() -> float:
        loss = parts.model(**batch).loss
        if handle is not None and handle.penalty is not None:
            loss = loss + handle.penalty()
        return finished(loss, optimizer)

    return step


def finished(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Backward and the optimizer's step, whose processor seconds are given."""
    optimizer.zero_grad()
    loss.backward()
    start = time.process_time()
    optimizer.step()
    return time.process_time() - start


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
        "pairs": ratios,
    }


def child(setting: str, plan_folder: str, batch_size: str, num_pairs: int) -> dict[str, Any]:
    """Time and memory of one hold; `plan_folder` "none" takes steps without one."""
    parts, _, batch = prepared(setting, int(batch_size))
    handle, plan = None, None
    if plan_folder != "none":
        plan = HoldPlan.load(Path(plan_folder), parts.model)
        plan.freeze(parts.model)
    optimizer = torch.optim.AdamW(trained_parameters(parts.model).values(), lr=1e-4, weight_decay=0.0)
    if plan is not None:
        handle = ta.attach(plan, optimizer, parts.model)
    step = stepper(parts, batch, optimizer, handle)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of loading does not count
    for _ in range(2):
        step()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    found: dict[str, Any] = {"batch_size": int(batch_size), "num_tokens": int(batch["attention_mask"].sum())}
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


def embedded_costs(num_pairs: int, wanted: list[str]) -> Rows:
    """A row for each setting and hold on the embedded model."""
    if not wanted:
        return
    model, processor = ta.load_vlm("embedded")
    needs_inputs = any("language_model" in filters for setting in wanted for filters in HOLDS[setting].values())
    anchor = ta.fit_anchor(model, processor, texts(), linears=None if needs_inputs else [])
    for setting in wanted:
        parts, _, _ = prepared(setting, BATCH_SIZE)
        without: dict[int, float] = {}
        for hold, filters in HOLDS[setting].items():
            # what is held of the language model costs the most, so it is measured on more tokens too
            sizes = (BATCH_SIZE, LARGE_BATCH) if hold == "exact" and "language_model" in filters else (BATCH_SIZE,)
            with tempfile.TemporaryDirectory() as folder:
                plan = ta.plan_holds(parts, anchor, {part: ta.FilterConfig(**f) for part, f in filters.items()})
                plan.save(Path(folder) / "plan")
                for size in sizes:
                    if size not in without:
                        without[size] = run_child(setting, "none", size, 0)["peak_memory_mb"]
                    repeats = num_pairs if size == BATCH_SIZE else min(num_pairs, LARGE_PAIRS)
                    found = run_child(setting, Path(folder) / "plan", size, repeats)
                    found["memory_ratio"] = found["peak_memory_mb"] / without[size]
                    yield {"model": "embedded", "setting": setting, "hold": hold, "target": TARGETS[setting], **found}


def projector_costs(num_pairs: int) -> Rows:
    """A row for each shape and hold, on the last linear; the first one is frozen."""
    for model, (width_in, width, width_out) in SHAPES.items():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width_out))
        net[0].requires_grad_(False)
        states_ND, target_ND = torch.randn(NUM_IMAGE_TOKENS, width_in), torch.randn(NUM_IMAGE_TOKENS, width_out)
        anchor = ta.Anchor.from_states(torch.randn(2 * width_out, width_out))
        for hold in ("exact", "share", "decay"):
            plan = anchor.plan(net[2], side="out", num_kept=64, hold=hold)
            optimizer = torch.optim.AdamW(net[2].parameters(), lr=1e-4, weight_decay=0.0)
            handle = ta.attach(plan, optimizer)

            def step(optimizer: Any = optimizer, net: Any = net, x: Any = states_ND, y: Any = target_ND) -> float:
                return finished((net(x) - y).square().mean(), optimizer)

            handle.remove()
            row = {"model": model, "setting": "projector alone", "hold": hold, "target": 1.02}
            yield row | {"num_tokens": NUM_IMAGE_TOKENS} | pairs(step, handle, optimizer, num_pairs)


def setup_costs() -> Rows:
    """Processor seconds until training can begin, on the linears of the first layers and the same texts."""
    from textanchor.training.method import load_method

    model, processor = ta.load_vlm("embedded")
    linears = list(find_parts(model).text_linears())[: 7 * NUM_LAYERS]

    def ours(parts: VLMParts) -> None:
        anchor = ta.fit_anchor(parts.model, processor, texts(), parts=parts, linears=linears)
        for name in linears:
            ta.Anchor({"states": anchor[f"inputs/{name}"]}).plan(
                parts.module(name), side="in", kept_fraction=0.3, hold="exact"
            )

    def adapter(options: dict[str, Any], config: PartConfig) -> Callable[[VLMParts], None]:
        def make(parts: VLMParts) -> None:
            targets = AdapterTargets(parts, {"language_model": linears}, {"language_model": config}, processor)
            load_method(options).make_adapter(targets)

        return make

    def fisher(kind: str) -> Callable[[VLMParts], None]:
        from textanchor.training import fisher as fisher_module
        from textanchor.training.reference import text_batches
        from textanchor.training.trainer import label_logits

        def gather(parts: VLMParts) -> None:
            generator = torch.Generator().manual_seed(0)
            parts.model.requires_grad_(False)
            modules: dict[str, Any] = {name: parts.module(name) for name in linears}

            def log_likelihood(batch: Any) -> tuple[torch.Tensor, int]:
                inputs = {name: value for name, value in batch.items() if name != "labels"}
                logits_KV = label_logits(parts.model, inputs, batch["labels"])
                return fisher_module.drawn_log_likelihood(logits_KV, generator), len(logits_KV)

            batches = text_batches(processor, texts(), torch.device("cpu"))
            if kind == "kfac":
                fisher_module.kronecker_fisher(modules, batches, log_likelihood)
            else:
                weights = {name: module.weight for name, module in modules.items()}
                fisher_module.diagonal_fisher(weights, batches, log_likelihood)

        return gather

    kinds: dict[str, Callable[[VLMParts], None]] = {
        "textanchor: anchor and plan, inputs": ours,
        "EWC: diagonal Fisher": fisher("diagonal"),
        "EWC: K-FAC": fisher("kfac"),
        "OSF: PEFT's init": adapter({"name": "osf"}, FULL),
        "CorDA: PEFT's preprocessing": adapter({"name": "corda", "num_texts": NUM_TEXTS}, LORA),
        "LoRA-Null": adapter({"name": "lora_null", "num_texts": NUM_TEXTS}, LORA),
    }
    for name, setup in kinds.items():
        parts = find_parts(ta.load_vlm("embedded")[0])  # adapters change the model
        start = time.process_time()
        setup(parts)
        yield {"method": name, "seconds": time.process_time() - start, "layers": NUM_LAYERS, "num_texts": NUM_TEXTS}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", type=Path)
    parser.add_argument("--pairs", type=int, default=7)
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
    parts = [embedded_costs(options.pairs, [setting for setting in SETTINGS if setting in wanted])]
    parts += [projector_costs(options.pairs)] if "projector" in wanted else []
    parts += [setup_costs()] if "setup" in wanted else []
    for row in itertools.chain.from_iterable(parts):
        print({key: value for key, value in row.items() if key != "pairs"}, flush=True)
        record["rows"].append(row)
        if options.record is not None:
            write_json(options.record, record)  # after each row, so that a run that is cut off leaves what it has


if __name__ == "__main__":
    main()
