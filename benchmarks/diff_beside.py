"""`diff` of this build beside an earlier commit and beside modeldelta, on one pair of about 470 MB, taken in turns.

    pip install --no-deps --target DELTA modeldelta==0.4.4
    python benchmarks/diff_beside.py FOLDER --earlier 8de9e74 --modeldelta DELTA --record docs/evidence/speed/diff.json

The pair has the tensors of a small Qwen2.5-VL in bfloat16, its projector tuned in full and LoRA of rank 16 merged into
q_proj and v_proj. It is written into FOLDER and deleted. Each run is a process of its own; what is timed is the call
alone, without imports, and for modeldelta, which is a command, the whole process beside the whole process of `diff`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import diff_large
from diff_large import CHILD, shard_files, write_pair
from earlier_build import REPOSITORY, checkout, environment_of

from textanchor.files import write_json
from textanchor.records import environment

SMALL = {
    "text_config": {
        **diff_large.CONFIG["text_config"],
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "vocab_size": 28000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
    },
    "vision_config": diff_large.CONFIG["vision_config"]
    | {
        "depth": 8,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_heads": 8,
        "out_hidden_size": 768,
        "fullatt_block_indexes": [7],
    },
    "tie_word_embeddings": False,
}
ROUNDS = 5
DELTA_ROUNDS = 1
"""modeldelta takes long enough for one run to tell."""


def timed(command: list[str], env: dict[str, str]) -> tuple[float, str]:
    """Seconds of a process and its standard output."""
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return time.monotonic() - began, done.stdout


def measure(folder: Path, builds: dict[str, dict[str, str]], delta: Path | None) -> dict[str, dict]:
    """Build -> seconds of each run, the first of each, which warms the cache of files, left out."""
    seconds: dict[str, dict] = {name: {"call_seconds": [], "process_seconds": [], "verdict": ""} for name in builds}
    for round_number in range(ROUNDS + 1):
        for name, env in builds.items():
            whole, output = timed([sys.executable, "-c", CHILD, str(folder)], env)
            outcome = json.loads(output.splitlines()[-1])
            if round_number:
                seconds[name]["call_seconds"].append(outcome["seconds"])
                seconds[name]["process_seconds"].append(whole)
                seconds[name]["verdict"] = outcome["verdict"]
    if delta is not None:
        command = [sys.executable, str(delta / "bin" / "modeldelta"), "-q", str(folder / "base"), str(folder / "tuned")]
        runs = [timed(command, {**os.environ, "PYTHONPATH": str(delta)})[0] for _ in range(DELTA_ROUNDS)]
        seconds["modeldelta"] = {"process_seconds": runs}
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--earlier", required=True)
    parser.add_argument("--modeldelta", type=Path)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    diff_large.CONFIG = SMALL
    try:
        write_pair(options.folder, ["q_proj", "v_proj"])
        size = sum(path.stat().st_size for path in shard_files(options.folder))
        with checkout(options.earlier) as earlier:
            builds = {
                "this": environment_of(REPOSITORY, avx2=False),
                options.earlier: environment_of(earlier, avx2=False),
            }
            found = measure(options.folder, builds, options.modeldelta)
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)
    call = {name: statistics.median(found[name]["call_seconds"]) for name in builds}
    whole = {name: statistics.median(runs["process_seconds"]) for name, runs in found.items()}
    result = {
        "command": ["python", "benchmarks/diff_beside.py", "FOLDER", "--earlier", options.earlier],
        "pair": "a small Qwen2.5-VL, bfloat16, synthetic weights",
        "bytes_read_once": size,
        "seconds": found,
        "this_over_earlier": call["this"] / call[options.earlier],
        "modeldelta_over_this": whole["modeldelta"] / whole["this"] if "modeldelta" in whole else None,
        **environment(),
    }
    print(json.dumps(result, indent=1))
    if options.record is not None:
        write_json(options.record, result)


if __name__ == "__main__":
    main()
