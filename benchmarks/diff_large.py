"""Time and peak memory of `diff` on a full-size pair: synthetic shards with the tensors of Qwen2.5-VL-7B in bfloat16.

    python benchmarks/diff_large.py FOLDER [--lora q_proj v_proj] [--record docs/evidence/diff/large.json]

Writes about 33 GB into FOLDER and deletes them. Weights are random numbers; the tuned model has another projector, and
a LoRA update of rank 16 merged into the linears of the language model that --lora names. Before each timed pass the
files are dropped from the page cache; the plain read of both, in blocks as large as diff's, is the yardstick.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from textanchor.diffs.structure import Structure
from textanchor.files import write_json
from textanchor.records import environment

CONFIG = {
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "tie_word_embeddings": False,
}
SHARD_BYTES = 2 * 10**9
RANK = 16
STOCK = 2**26
"""Random numbers that weights are cut from, each tensor at a place of its own."""
READ_BYTES = 2**22


def published_name(name: str) -> str:
    """The name in published checkpoints, as Transformers 4 wrote them."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def weights(name: str, shape: tuple[int, ...], stock: torch.Tensor) -> torch.Tensor:
    """Normal numbers of size 0.02, the same for the same name."""
    count = torch.Size(shape).numel()
    start = sum(name.encode()) * 7919 % STOCK
    pieces, missing = [stock[start : start + count]], count - (STOCK - start)
    while missing > 0:
        pieces.append(stock[:missing])
        missing -= STOCK
    return torch.cat(pieces).reshape(shape)


def tuned(tensor: torch.Tensor, name: str, lora: list[str], is_projector: bool) -> torch.Tensor:
    """The tensor after tuning."""
    if is_projector:
        return (tensor.float() + 0.002 * torch.randn(tensor.shape)).bfloat16()
    if name.endswith(".weight") and name.split(".")[-2] in lora and "language_model" in name:
        outputs, inputs = tensor.shape
        update = 0.002 * torch.randn(outputs, RANK) @ (torch.randn(RANK, inputs) / 4)
        return (tensor.float() + update).bfloat16()
    return tensor


def write_pair(folder: Path, lora: list[str]) -> None:
    """Two folders `base` and `tuned` with shards, indices and configurations."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(Qwen2_5_VLConfig(**CONFIG))
    structure = Structure.of_model(model)
    stock = (0.02 * torch.randn(STOCK)).bfloat16()
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in structure.shapes.items():
        size += 2 * torch.Size(shape).numel()
        if size > SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 2 * torch.Size(shape).numel()
        shards[-1].append(name)
    for kind in ("base", "tuned"):
        (folder / kind).mkdir(parents=True)
        model.config.save_pretrained(folder / kind)
        weight_map = {}
        for i, names in enumerate(shards, 1):
            file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
            tensors = {name: weights(name, structure.shapes[name], stock) for name in names}
            if kind == "tuned":
                groups = {name: structure.group_of(name) for name in names}
                tensors = {n: tuned(t, n, lora, groups[n] == "projector") for n, t in tensors.items()}
            stored = {published_name(name): tensor.contiguous() for name, tensor in tensors.items()}
            save_file(stored, folder / kind / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(stored, file)
            print(f"wrote {kind}/{file}", file=sys.stderr)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / kind / "model.safetensors.index.json").write_text(json.dumps(index))


def shard_files(folder: Path) -> list[Path]:
    """All shards of the pair."""
    return sorted(folder.glob("*/*.safetensors"))


def drop_from_cache(folder: Path) -> None:
    """Ask the kernel to forget the files, so that the next pass reads the disk."""
    os.sync()
    for path in shard_files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def plain_read(folder: Path) -> float:
    """Seconds to read both checkpoints, alternating between base and tuned as `diff` does, and doing nothing."""
    buffer = bytearray(READ_BYTES)
    began = time.monotonic()
    for base in sorted((folder / "base").glob("*.safetensors")):
        with base.open("rb", buffering=0) as first, (folder / "tuned" / base.name).open("rb", buffering=0) as second:
            while first.readinto(buffer) + second.readinto(buffer):
                pass
    return time.monotonic() - began


CHILD = """
import json, sys, time
import textanchor as ta
from pathlib import Path
folder = Path(sys.argv[1])
began, cpu = time.monotonic(), time.process_time()
report = ta.diff(folder / "base", folder / "tuned")
seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
parts = [[row.title, row.num_changed, row.num_tensors, row.ranks, row.text_shares] for row in report.parts]
peak = int(status["VmHWM"].split()[0]) / 1024
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_resident_mb": peak,
                  "verdict": report.verdict, "parts": parts}))
"""


def run_diff(folder: Path) -> dict:
    """`diff` in a process of its own: seconds, peak resident memory (VmHWM, all libraries included), outcome."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lora", nargs="*", default=["q_proj", "v_proj"])
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    free = shutil.disk_usage(options.folder.parent).free
    if free < 45 * 10**9:
        sys.exit(f"{options.folder.parent}: {free / 1e9:.0f} GB free, 45 are needed")
    try:
        write_pair(options.folder, options.lora)
        size = sum(path.stat().st_size for path in shard_files(options.folder))
        drop_from_cache(options.folder)
        load_before = os.getloadavg()[0]
        cpu = time.process_time()
        read_seconds = plain_read(options.folder)
        read_cpu = time.process_time() - cpu
        drop_from_cache(options.folder)
        outcome = run_diff(options.folder)
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)
    result = {
        "command": ["python", "benchmarks/diff_large.py", "FOLDER", "--lora", *options.lora],
        "pair": "Qwen2.5-VL-7B, bfloat16, synthetic weights",
        "changed": {"projector": "in full", "language_model": options.lora, "rank": RANK},
        "bytes_read_once": size,
        "plain_read_seconds": read_seconds,
        "plain_read_cpu_seconds": read_cpu,
        "plain_read_gb_per_second": size / read_seconds / 1e9,
        "diff": outcome | {"gb_per_second": size / outcome["seconds"] / 1e9},
        "seconds_over_plain_read": outcome["seconds"] / read_seconds,
        "threads": torch.get_num_threads(),
        "load_average_before": load_before,
        **environment(),
    }
    print(json.dumps(result, indent=1))
    if options.record is not None:
        earlier = json.loads(options.record.read_text()) if options.record.is_file() else []
        write_json(options.record, [*earlier, result])


if __name__ == "__main__":
    main()
