"""What report.json holds: the literal shape, and the rules between keys."""

from textanchor.report.check import (
    INTERVAL,
    Named,
    Nullable,
    OneOf,
    Report,
    is_bool,
    is_count,
    is_number,
    is_object,
    is_png,
    is_share,
    is_text,
    problems,
)

SHARE_INTERVAL = {"estimate": is_share, "low": is_number, "high": is_number}
SHARE = OneOf(is_share, SHARE_INTERVAL)  # a bare number is shown without an interval
NUMBER = OneOf(is_number, INTERVAL)

CHANGE = {"accuracy?": INTERVAL, "gold_nats?": INTERVAL}  # after minus before, paired by item

TASK_SCORES = {
    "accuracy?": SHARE_INTERVAL,  # open questions, such as captions, have none
    "gold_nats": INTERVAL,
    "num_items": is_count,
    "majority?": Nullable(is_share),
    "blind?": Nullable(is_share),
    "change?": CHANGE,
}
SCORES = {
    "tasks": Named(TASK_SCORES, at_least=1),
    "old_mean?": {"accuracy": SHARE_INTERVAL, "gold_nats": INTERVAL, "change?": CHANGE},
    "pope?": {
        "accuracy": SHARE,
        "precision": Nullable(SHARE),
        "recall": SHARE,
        "f1": Nullable(SHARE),
        "yes_ratio": SHARE,
        "blind_accuracy": Nullable(is_share),
        "unparsed?": is_share,
        "num_items": is_count,
    },
    "chair?": {"chair_i": Nullable(SHARE), "chair_s": SHARE, "recall": SHARE, "mean_length": NUMBER},
    "text?": {"cross_entropy": NUMBER, "kl_to_base?": NUMBER},
}
POINT = {"accuracy": is_share, "gold_nats": is_number}
PART_DRIFT = {"protected": is_number, "free": is_number, "relative_norm": is_number}
RUN = {
    "scores": SCORES,
    "curve?": [{"step": is_count, "new": POINT, "old": POINT, "text_cross_entropy": Nullable(is_number)}],
    "drift?": [{"step": is_count, "parts": Named(PART_DRIFT)}],
    "norms?": [{"step": is_count, "visual_token_norm": is_number, "text_token_norm": is_number}],
    "audit?": {
        "tensors": [
            {
                "name": is_text,
                "rule": is_text,
                "weight_leak": Nullable(is_number),
                "function_leak": Nullable(is_number),
                "relative_update": is_number,
            }
        ],
        "reload_max_difference": is_number,
        "trained_not_saved": [is_text],
    },
    "loss?": [{"step": is_count, "loss": is_number}],
    "seconds?": is_number,
}
AT_LEVEL = {
    "old_accuracy": Nullable(is_share),
    "old_gold_nats": Nullable(is_number),
    "text_cross_entropy": Nullable(is_number),
}
REPORT = {
    "title": is_text,
    "created": is_text,
    "textanchor_version": is_text,
    "fixture?": is_bool,  # true marks invented numbers, and the page says so
    "interval_note?": is_text,  # how the intervals were made
    "command?": OneOf(is_text, [is_text]),
    "environment?": is_object,
    "config?": is_object,
    "cost?": {"seconds": is_number, "peak_memory_mb?": is_number},  # of everything up to the report
    "model?": {
        "name": is_text,
        "parameters": is_count,
        "vision_tower": is_text,
        "projector": OneOf(is_text, [is_text]),
        "language_model": is_text,
    },
    "new_task": is_text,
    "old_tasks": [is_text],
    "headline": {"sentence": is_text, "matched_sentence": is_text, "better": is_text},
    "before": SCORES,
    "after": Named(RUN, at_least=1),
    "matched?": {
        "metric": is_text,
        "level": Nullable(is_share),
        "reached": Named(is_bool),
        "at_level": Named(Nullable(AT_LEVEL)),
    },
    "geometry?": {
        "text_spectrum": [is_number],
        "projected_energy": Named([is_share]),
        "ks": [is_count],
        "random": [is_share],
    },
    "samples?": [
        {
            "image_png_base64": is_png,
            "task": is_text,
            "question": is_text,
            "gold": is_text,
            "before": is_text,
            "right?": Nullable(Named(is_bool)),
        }
    ],
}


def problems_between_keys(report: Report) -> list[str]:
    """Where keys that fit by themselves are at odds with each other."""
    found = []
    tasks = [report["new_task"], *report["old_tasks"]]
    for path, scores in [("before", report["before"])] + [
        (f"after.{name}.scores", run["scores"]) for name, run in report["after"].items()
    ]:
        found += [f"key `{path}.tasks.{task}` is missing" for task in tasks if task not in scores["tasks"]]
        if "accuracy" not in scores["tasks"].get(report["new_task"], {"accuracy": None}):
            found.append(f"key `{path}.tasks.{report['new_task']}.accuracy` is missing")
    if "before" in report["after"]:
        found.append("`after` has a method called 'before', a name that is taken by the model before tuning")
    better, allowed = report["headline"]["better"], [*report["after"], "neither"]
    if better not in allowed:
        found.append(f"`headline.better` is {better!r}, expected one of {', '.join(allowed)}")
    if "matched" in report:
        for method in report["after"]:
            found += [
                f"key `matched.{key}.{method}` is missing"
                for key in ("reached", "at_level")
                if method not in report["matched"][key]
            ]
    if "geometry" in report:
        geometry = report["geometry"]
        rows = {"random": geometry["random"]} | {
            f"projected_energy.{k}": v for k, v in geometry["projected_energy"].items()
        }
        found += [
            f"`geometry.{key}` has {len(row)} values, expected {len(geometry['ks'])} as in `geometry.ks`"
            for key, row in rows.items()
            if len(row) != len(geometry["ks"])
        ]
    for i, sample in enumerate(report.get("samples", [])):
        answers = {name: is_text for name in report["after"]}
        found += problems(sample, answers, f"samples[{i}]")
    return found
