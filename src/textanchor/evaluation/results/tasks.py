"""Questions with choices, and open ones: what each suite of them amounts to, and what their free answers do."""

from collections.abc import Mapping

from textanchor.evaluation.results.values import Metrics, Summary, interval_of, mean_of, written, written_share
from textanchor.tables import Table


def summarise(metrics: Metrics) -> Summary:
    """Cross-entropy of the right answer; with choices also accuracy, the majority's and that without the image."""
    summary: Summary = {"gold_nats": interval_of(metrics["gold_nats"]), "num_items": len(metrics["gold_nats"])}
    if "correct" in metrics:
        summary["accuracy"] = interval_of(metrics["correct"])
        summary["accuracy_normalised"] = interval_of(metrics["correct_normalised"])
        summary["choice_nats"] = interval_of(metrics["choice_nats"])
        summary["majority"] = mean_of(metrics["majority_correct"])
    summary["blind"] = mean_of(metrics.get("blind_correct"))
    return summary


def lines(tasks: Mapping[str, Summary]) -> list[str]:
    """A table of the suites."""
    header = ("task", "items", "accuracy", "gold nats", "majority", "blind")
    rows = []
    for name, task in tasks.items():
        accuracy = written(task["accuracy"]) if "accuracy" in task else "-"
        means = (written_share(task.get("majority")), written_share(task["blind"]))
        rows.append((name, str(task["num_items"]), accuracy, written(task["gold_nats"]), *means))
    return [Table(header, rows).aligned()]


def summarise_free(metrics: Metrics) -> Summary:
    """Of free answers `accuracy` is read leniently and `strict_accuracy` strictly: the difference is a loss of format.

    `unparsed` is the share that names no choice or several, None for open questions.
    """
    parsed = mean_of(metrics.get("free_parsed"))
    return {
        "accuracy": interval_of(metrics["free_correct"]),
        "strict_accuracy": interval_of(metrics["free_strict_correct"]),
        "unparsed": None if parsed is None else 1 - parsed,
    }


def free_lines(name: str, free: Summary) -> str:
    """One line on a suite that was also answered freely."""
    return (
        f"{name}, free answers: accuracy {written(free['accuracy'])}, strictly read "
        f"{written(free['strict_accuracy'])}, unparsed {written_share(free['unparsed'])}"
    )
