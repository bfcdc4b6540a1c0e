"""Processor seconds of fitting an anchor on the embedded model, beside the bare forward passes over the same batches.

    python benchmarks/anchor_fit.py --against 8de9e74 --record docs/evidence/speed/anchor_fit.json

What is fitted: `texts` (the demo's), `images` (the same texts, and reference images for the projector) and `questions`
(the images with a question each for the language model too). Bare are the passes as everyone writes them (`plain`:
torch's own linears, logits where the model gives them, the tower once for the projector and once more for the
questions), and those that fit_anchor makes (`same`: its faster linears, no logits, the tower once). Processor time of
one thread, medians over repeats taken in turn, each build in a process of its own; with and without AVX-512. Moments
of the two builds are compared on the same forward passes, those with faster linears: the largest ||C - C'|| / ||C||
of any linear's tokens, sinks included.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from earlier_build import REPOSITORY, checkout, environment_of

BATCH = 8
WAYS = ("texts", "images", "questions")
PROMISED = 1.25
MOST_DIFFERENCE = 1e-6


class Build:
    """The build on the path: its fit and the bare passes; runs in a process of its own."""

    def __init__(self, num_texts: int, num_images: int) -> None:
        import torch

        from textanchor.data.items import open_image
        from textanchor.data.tasks import load_items
        from textanchor.data.texts import load_texts
        from textanchor.vlm.embedded import load_embedded

        torch.set_num_threads(1)
        self.model, self.processor = load_embedded()
        self.texts = [row.text for row in load_texts("train")[:num_texts]]
        items = load_items("caption", split="train", num_items=num_images)
        self.images = [open_image(item.image) for item in items if item.image is not None]
        self.questions = [item.question for item in items]

    def fit(self, way: str) -> Any:
        """The anchor."""
        from textanchor.holds import fit_anchor

        images = None if way == "texts" else self.images
        asking = {"questions": self.questions, "language_images": True} if way == "questions" else {}
        return fit_anchor(self.model, self.processor, self.texts, images, batch_size=BATCH, **asking)

    def passes(self, way: str, *, plain: bool) -> list[Callable[[], object]]:
        """The forward passes that the fit needs, their inputs made."""
        import torch

        from textanchor.vlm.parts import find_parts
        from textanchor.vlm.passes import prompt_inputs

        parts = find_parts(self.model)
        language_model: Any = parts.module(parts.language_model)
        rows = sorted((self.processor.tokenizer(text)["input_ids"][:512] for text in self.texts), key=len)
        passes: list[Callable[[], object]] = []
        for batch in pieces(rows):
            longest = len(batch[-1])
            ids_BL = torch.tensor([[*row, *[0] * (longest - len(row))] for row in batch])
            real_BL = torch.tensor([[i < len(row) for i in range(longest)] for row in batch]).long()
            inputs = {"input_ids": ids_BL, "attention_mask": real_BL, "use_cache": False}
            passes.append(lambda inputs=inputs: language_model(**inputs))
        if way == "images" or (way == "questions" and plain):
            for batch in pieces(self.images):
                pixels = self.processor.image_processor(images=list(batch), return_tensors="pt")["pixel_values"]
                passes.append(lambda pixels=pixels: self.model.get_image_features(pixel_values=pixels))
        if way == "questions":
            options = {} if plain else {"logits_to_keep": 1}
            for images, questions in zip(pieces(self.images), pieces(self.questions), strict=True):
                inputs = prompt_inputs(parts, self.processor, images, questions)
                passes.append(lambda inputs=inputs: self.model(**inputs, **options, use_cache=False))
        return passes

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Processor seconds of one way, once."""
        import torch
        from safetensors.torch import save_file

        from textanchor.vlm.fast_linears import fast_linears

        way, what = asked["way"], asked["what"]
        if what == "fit":
            with fast_linears(self.model) if "file" in asked else nullcontext():
                began = time.process_time()
                anchor = self.fit(way)
                seconds = time.process_time() - began
            if "file" in asked:
                tensors = {f"mean/{name}": own.mean_D for name, own in anchor.moments.items()}
                for name, own in anchor.moments.items():
                    tensors[f"second/{name}"] = own.count * own.second_EE + own.sinks_SE.T @ own.sinks_SE
                save_file(tensors, asked["file"])
        else:
            passes = self.passes(way, plain=what == "plain")
            with torch.no_grad(), nullcontext() if what == "plain" else fast_linears(self.model):
                began = time.process_time()
                for run in passes:
                    run()
                seconds = time.process_time() - began
        return {"seconds": seconds, "capability": torch.backends.cpu.get_cpu_capability()}


def pieces(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[start : start + BATCH] for start in range(0, len(values), BATCH)]


class Process:
    """A build in a process of its own, which answers line by line."""

    def __init__(self, source: Path, chosen: argparse.Namespace, *, avx2: bool) -> None:
        command = [sys.executable, "-W", "ignore", __file__, "--serve"]
        command += ["--texts", str(chosen.texts), "--images", str(chosen.images)]
        self.process = subprocess.Popen(
            command, env=environment_of(source, avx2=avx2), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, **asked: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the build ended with exit code {self.process.wait()} when asked for {asked}")
        return json.loads(line)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def largest_difference(ours: Path, theirs: Path) -> dict[str, float]:
    """Of the second moments and of the means in two files."""
    from safetensors import safe_open

    largest = {"second": 0.0, "mean": 0.0}
    with safe_open(ours, framework="pt") as first, safe_open(theirs, framework="pt") as second:
        for name in sorted(second.keys()):
            x, y = first.get_tensor(name), second.get_tensor(name)
            kind = name.partition("/")[0]
            largest[kind] = max(largest[kind], float((x - y).norm() / y.norm()))
    return largest


def measure(earlier: Path | None, chosen: argparse.Namespace, *, avx2: bool) -> dict[str, Any]:
    """Medians and ratios of every way on one kind of processor."""
    builds = {"ours": Process(REPOSITORY, chosen, avx2=avx2)}
    if earlier is not None:
        builds["earlier"] = Process(earlier, chosen, avx2=avx2)
    found: dict[str, Any] = {}
    for way in chosen.ways:
        seconds: dict[str, list[float]] = {}
        for repeat in range(chosen.repeats + 1):  # what the libraries set up at their first call is nobody's cost
            asked = {"plain": ("ours", "plain"), "same": ("ours", "same"), "fit": ("ours", "fit")}
            asked |= {"earlier": ("earlier", "fit")} if earlier is not None else {}
            for name, (build, what) in asked.items():
                answer = builds[build](way=way, what=what)
                if repeat:
                    seconds.setdefault(name, []).append(answer["seconds"])
        median = {name: statistics.median(values) for name, values in seconds.items()}
        found[way] = {
            "seconds": seconds,
            "median": median,
            "over_plain": median["fit"] / median["plain"],
            "over_same": median["fit"] / median["same"],
        }
        if earlier is not None:
            found[way] |= {"earlier_over_plain": median["earlier"] / median["plain"]}
            found[way] |= {"times_as_fast": median["earlier"] / median["fit"]}
            with tempfile.TemporaryDirectory() as folder:
                for name, build in builds.items():
                    build(way=way, what="fit", file=f"{folder}/{name}")
                found[way]["difference"] = largest_difference(Path(folder) / "ours", Path(folder) / "earlier")
        print(
            answer["capability"], way, json.dumps({k: v for k, v in found[way].items() if k != "seconds"}), flush=True
        )
    for build in builds.values():
        build.end()
    return {"capability": answer["capability"], **found}


def main() -> int:
    """Measure, print the ratios and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", help="commit of an earlier build")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--processors", nargs="+", choices=("own", "avx2"), default=("own", "avx2"))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        build = Build(chosen.texts, chosen.images)
        for line in sys.stdin:
            print(json.dumps(build.answer(json.loads(line))), flush=True)
        return 0
    with checkout(chosen.against) if chosen.against else nullcontext() as earlier:
        found = {kind: measure(earlier, chosen, avx2=kind == "avx2") for kind in chosen.processors}
    if chosen.record:
        from textanchor.records import RunRecord, environment

        RunRecord(
            name="fitting an anchor",
            method="benchmark",
            seed=0,
            config={key: getattr(chosen, key) for key in ("against", "texts", "images", "repeats")} | {"batch": BATCH},
            **environment(),
            extra=found,
        ).save(chosen.record)
    ways = [found[kind][way] for kind in chosen.processors for way in chosen.ways]
    near = all(max(own["difference"].values()) <= MOST_DIFFERENCE for own in ways if "difference" in own)
    return 0 if near and all(own["over_same"] <= PROMISED for own in ways) else 1


if __name__ == "__main__":
    raise SystemExit(main())
