"""A full report.json with invented, plausible numbers, marked as a fixture; run it to look at the page it makes.

python tests/helpers/report_fixture.py report.json [app|full|neither]
"""

import base64
import io
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

OLD_TASKS = ("existence", "shape", "color", "position", "count")
STEPS = (0, 10, 24, 58, 140)
# task: (accuracy before, lost by plain tuning, lost by APP, nats before, majority, blind)
TASKS = {
    "words": (0.135, -0.79, -0.755, 5.84, 0.125, 0.13),
    "existence": (0.88, 0.205, 0.015, 0.31, 0.50, 0.51),
    "shape": (0.795, 0.16, 0.02, 0.58, 0.14, 0.155),
    "color": (0.83, 0.235, 0.05, 0.49, 0.15, 0.135),
    "position": (0.71, 0.11, -0.01, 0.70, 0.27, 0.26),
    "count": (0.815, 0.29, 0.075, 0.45, 0.26, 0.285),
}
NUM_ITEMS = 200
Json = dict[str, Any]


def make_report(better: str = "app") -> Json:
    """The whole schema filled; `better` sets which method loses less ("neither": no level that both reach)."""
    swap = better == "full"
    runs = {"full": _run("app" if swap else "full"), "app": _run("full" if swap else "app")}
    reached = better != "neither"
    kept = {"old_accuracy": 0.774, "old_gold_nats": 0.612, "text_cross_entropy": 3.452}
    lost = {"old_accuracy": 0.652, "old_gold_nats": 1.021, "text_cross_entropy": 3.561}
    level = 0.86
    at_level = {"full": kept if swap else lost, "app": lost if swap else kept}
    return {
        "title": "Fixture: learning words with an embedded model",
        "fixture": True,
        "created": "2025-01-31T12:00:00+00:00",
        "textanchor_version": "0.0.0",
        "interval_note": "Intervals are 95% bootstrap over items.",
        "command": ["textanchor", "demo", "--out", "runs/demo one", "--set", "seed=0"],
        "environment": {
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "versions": {"python": "3.12.3", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
            "hardware": {"cpu": "two cores", "cores": 2, "memory_gb": 7.6, "gpu": None},
        },
        "config": {"seed": 0, "task": "words", "filter": {"mode": "inputs", "kept_energy": 0.9, "hold": "exact"}},
        "model": {
            "name": "embedded",
            "parameters": 138_912_000,
            "vision_tower": "model.vision_tower",
            "projector": "model.multi_modal_projector",
            "language_model": "model.language_model",
        },
        "new_task": "words",
        "old_tasks": list(OLD_TASKS),
        "headline": _headline(better),
        "before": _scores("before"),
        "after": runs,
        "matched": {
            "metric": "accuracy",
            "level": level if reached else None,
            "reached": {"full": True, "app": reached},
            "at_level": at_level if reached else {"full": lost, "app": None},
        },
        "geometry": _geometry(),
        "samples": _samples(),
    }


def _headline(better: str) -> Json:
    learned = "Both learned to read words (13.5% before)."
    sentences = {
        "app": (
            "The model learned to read words with either method, but plain tuning lost a fifth of what it could see "
            "before, and APP lost 3%.",
            "Where both first read 86.0% of the words, the old tasks stood at 77.4% with APP and 65.2% with plain "
            "tuning.",
        ),
        "full": (
            f"{learned} APP kept less of the old tasks than plain tuning did.",
            "At 86.0% plain tuning kept 77.4%, APP 65.2%.",
        ),
        "neither": (f"{learned} No difference can be told.", "APP never reached the level that plain tuning reached."),
    }
    sentence, matched_sentence = sentences[better]
    return {"sentence": sentence, "matched_sentence": matched_sentence, "better": better}


def _interval(estimate: float, half_width: float, *, share: bool = False) -> Json:
    low, high = estimate - half_width, estimate + half_width
    return {
        "estimate": round(estimate, 5),
        "low": round(max(low, 0.0), 5),
        "high": round(min(high, 1.0) if share else high, 5),
    }


def _share(estimate: float, num_items: int = NUM_ITEMS) -> Json:
    return _interval(estimate, 1.96 * math.sqrt(max(estimate * (1 - estimate), 0.002) / num_items), share=True)


def _scores(kind: str) -> Json:
    tasks = {}
    for task, (accuracy, lost_full, lost_app, nats, majority, blind) in TASKS.items():
        lost = {"before": 0.0, "full": lost_full, "app": lost_app}[kind]
        gold = nats * math.exp(3.2 * lost)
        tasks[task] = {
            "accuracy": _share(accuracy - lost),
            "gold_nats": _interval(gold, 0.09 * gold + 0.02),
            "num_items": NUM_ITEMS,
            "majority": majority,
            "blind": blind,
        }
    means = [
        sum(tasks[task][key]["estimate"] for task in OLD_TASKS) / len(OLD_TASKS) for key in ("accuracy", "gold_nats")
    ]
    pope, chair, text, kl = {
        "before": (0.865, 0.112, 3.441, 0.0),
        "full": (0.69, 0.247, 3.588, 0.193),
        "app": (0.85, 0.118, 3.449, 0.021),
    }[kind]
    return {
        "tasks": tasks,
        "old_mean": {"accuracy": _share(means[0], 5 * NUM_ITEMS), "gold_nats": _interval(means[1], 0.05 * means[1])},
        "pope": {
            "accuracy": _share(pope, 300),
            "precision": round(pope + 0.02, 4),
            "recall": round(pope - 0.03, 4),
            "f1": round(pope - 0.006, 4),
            "yes_ratio": round(0.47 + 0.9 * (0.865 - pope), 4),
            "unparsed": 0.0 if kind == "before" else 0.0067,
            "blind_accuracy": 0.503,
            "num_items": 300,
        },
        "chair": {
            "chair_i": chair,
            "chair_s": round(2.1 * chair, 4),
            "recall": round(0.9 - 1.2 * (chair - 0.112), 4),
            "mean_length": 11.4,
        },
        "text": {"cross_entropy": _interval(text, 0.028), "kl_to_base": kl},
    }


def _run(kind: str) -> Json:
    held = kind == "app"
    noise = random.Random(7 if held else 11)
    scores, before = _scores(kind), _scores("before")
    learned = [1 - math.exp(-step / (26 if held else 20)) for step in STEPS]
    learned = [x / learned[-1] for x in learned]
    lost = [x ** (1.5 if held else 0.9) for x in learned]

    def between(read: Any, at: list[float]) -> list[float]:
        start, end = read(before), read(scores)
        return [round(start + (end - start) * x, 4) for x in at]

    columns = {
        "new_accuracy": between(lambda s: s["tasks"]["words"]["accuracy"]["estimate"], learned),
        "new_nats": between(lambda s: s["tasks"]["words"]["gold_nats"]["estimate"], learned),
        "old_accuracy": between(lambda s: s["old_mean"]["accuracy"]["estimate"], lost),
        "old_nats": between(lambda s: s["old_mean"]["gold_nats"]["estimate"], lost),
        "text": between(lambda s: s["text"]["cross_entropy"]["estimate"], lost),
    }
    return {
        "scores": scores,
        "curve": [
            {
                "step": step,
                "new": {"accuracy": columns["new_accuracy"][i], "gold_nats": columns["new_nats"][i]},
                "old": {"accuracy": columns["old_accuracy"][i], "gold_nats": columns["old_nats"][i]},
                "text_cross_entropy": columns["text"][i],
            }
            for i, step in enumerate(STEPS)
        ],
        "drift": [{"step": step, "parts": _parts(step, held)} for step in STEPS],
        "norms": [
            {
                "step": s,
                "visual_token_norm": round(3.2 + (0.1 if held else 0.62) * math.sqrt(s), 3),
                "text_token_norm": 2.98,
            }
            for s in STEPS
        ],
        "audit": {"tensors": _tensors(held), "reload_max_difference": 2.1e-6, "trained_not_saved": []},
        "loss": [
            {"step": s, "loss": round(3.9 * math.exp(-s / (34 if held else 26)) + 0.28 + 0.05 * noise.random(), 4)}
            for s in range(1, 141, 3)
        ],
        "seconds": 171.3 if held else 158.9,
    }


def _parts(step: int, held: bool) -> Json:
    moved = math.sqrt(step)
    return {
        "projector": {
            "protected": round(3.1e-7 * moved if held else 0.19 * moved, 8),
            "free": round((0.26 if held else 0.33) * moved, 4),
            "relative_norm": round((0.0061 if held else 0.0088) * moved, 5),
        },
        "language_model": {
            "protected": round(2.2e-7 * moved if held else 0.42 * moved, 8),
            "free": round((0.33 if held else 0.4) * moved, 4),
            "relative_norm": round((0.0024 if held else 0.0041) * moved, 5),
        },
    }


def _tensors(held: bool) -> list[Json]:
    noise = random.Random(3)
    tensors = [
        _tensor(f"model.multi_modal_projector.linear_{i}.weight", "exact, inputs" if held else "free", held, noise)
        for i in (1, 2)
    ]
    for layer in range(30):
        for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"):
            rule = "exact, inputs (LoRA A)" if held else "free"
            tensors.append(_tensor(f"model.language_model.layers.{layer}.{name}.weight", rule, held, noise))
    return tensors


def _tensor(name: str, rule: str, held: bool, noise: random.Random) -> Json:
    leak = noise.uniform(2, 9) * 1e-8 if held else noise.uniform(0.3, 0.7)
    return {
        "name": name,
        "rule": rule,
        "weight_leak": leak,
        "function_leak": leak * 1.3 if "projector" in name else None,
        "relative_update": noise.uniform(0.004, 0.02),
    }


def _geometry() -> Json:
    raw = [0.11 * (i + 1) ** -0.78 * math.exp(-i / 900) for i in range(576)]
    spectrum = [value / sum(raw) for value in raw]
    ks = [1, 2, 4, 8, 16, 32, 64, 128, 256, 576]

    def energy(power: float) -> list[float]:
        return [round((k / 576) ** power, 5) for k in ks]

    return {
        "text_spectrum": spectrum,
        "projected_energy": {"before": energy(0.42), "full": energy(0.61), "app": energy(0.44)},
        "ks": ks,
        "random": [k / 576 for k in ks],
    }


def _samples() -> list[Json]:
    rows = [
        (_word("harbor"), "words", "Which word is written here?", "harbor", "a red square", "harbor", "harbor"),
        (
            _scene(("circle", "#c0392b"), ("square", "#2459a8")),
            "count",
            "How many objects are there?",
            "2",
            "2",
            "3",
            "2",
        ),
        (
            _scene(
                ("square", "#e0a800"),
            ),
            "color",
            "What color is the square?",
            "yellow",
            "yellow",
            "green",
            "yellow",
        ),
        (
            _scene(("circle", "#2d8a4e"), ("circle", "#7d3c98")),
            "existence",
            "Is there a triangle?",
            "no",
            "no",
            "yes",
            "no",
        ),
        (_word("lantern"), "words", "Which word is written here?", "lantern", "circle", "lantern", "lanterns"),
        (
            _scene(
                ("circle", "#2459a8"),
            ),
            "shape",
            "Which shape is in the image?",
            "circle",
            "circle",
            "circle",
            "circle",
        ),
    ]
    keys = ("image_png_base64", "task", "question", "gold", "before", "full", "app")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _scene(*objects: tuple[str, str]) -> str:
    image = Image.new("RGB", (224, 224), "#f4f1ea")
    draw = ImageDraw.Draw(image)
    for i, (shape, fill) in enumerate(objects):
        box = (24 + 104 * i, 30 + 84 * i, 98 + 104 * i, 104 + 84 * i)
        (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=fill)
    return _png(image)


def _word(word: str) -> str:
    image = Image.new("RGB", (224, 224), "#fbfaf7")
    ImageDraw.Draw(image).text((112, 112), word, fill="#22262b", anchor="mm", font_size=44)
    return _png(image)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(make_report(*sys.argv[2:3])), encoding="utf-8")
