"""POPE: accuracy, precision, recall, F1 and the yes ratio of what was read (arXiv 2305.10355).

lmms-eval counts the ground truth's yes-ratio and scores "Yes." as wrong; here every number is of the predictions.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from textanchor.evaluation.results.values import Metrics, Summary, interval_of, mean_of, written, written_share


@dataclass(frozen=True)
class PopeMetrics:
    """Shares of all questions; precision is None where nothing was predicted to be there."""

    accuracy: float
    precision: float | None
    recall: float
    f1: float
    yes_ratio: float
    """Share of the predictions, not of the gold answers, that are yes."""
    unparsed: float
    num_items: int


def pope_metrics(predicted: Sequence[bool | None], gold: Sequence[bool]) -> PopeMetrics:
    """Metrics of (N,) predictions, None where the answer could not be read: that is wrong, and it is not a yes.

    Source: POPE, arXiv 2305.10355, section 5; "yes" is the positive class. ValueError where there is no gold yes.
    """
    pairs = list(zip(predicted, gold, strict=True))
    num_yes = sum(gold)
    if num_yes == 0:
        raise ValueError("POPE needs at least one question whose gold answer is yes, because recall is of those")
    said_yes = sum(p is True for p in predicted)
    hits = sum(p is True and g for p, g in pairs)
    return PopeMetrics(
        accuracy=sum(p is g for p, g in pairs) / len(pairs),
        precision=hits / said_yes if said_yes else None,
        recall=hits / num_yes,
        f1=2 * hits / (said_yes + num_yes),
        yes_ratio=said_yes / len(pairs),
        unparsed=sum(p is None for p in predicted) / len(pairs),
        num_items=len(pairs),
    )


def summarise(metrics: Metrics) -> Summary:
    """All questions together, and those of each strategy, which is what an item id begins with."""
    strategies = dict.fromkeys(item.partition("/")[0] for item in metrics["correct"])
    summary = _pope_part(metrics)
    summary["strategies"] = {
        strategy: _pope_part(
            {m: {i: v for i, v in values.items() if i.startswith(f"{strategy}/")} for m, values in metrics.items()}
        )
        for strategy in strategies
    }
    return summary


def _pope_part(metrics: Metrics) -> Summary:
    gold = [metrics["is_yes"][item] == 1 for item in metrics["correct"]]
    summary = asdict(pope_metrics(_predicted(metrics, ""), gold))
    summary["accuracy"] = interval_of(metrics["correct"])
    summary["blind_accuracy"] = mean_of(metrics.get("blind_correct"))
    for reading in ("strict", "free", "free_strict", "published"):
        if f"{reading}_correct" in metrics:
            summary[reading] = asdict(pope_metrics(_predicted(metrics, f"{reading}_"), gold))
    return summary


def _predicted(metrics: Metrics, prefix: str) -> list[bool | None]:
    said, parsed = metrics[f"{prefix}said_yes"], metrics[f"{prefix}parsed"]
    return [said[item] == 1 if parsed[item] == 1 else None for item in metrics["correct"]]


def lines(pope: Summary) -> list[str]:
    """All questions together, then strategy by strategy."""
    parts = {"POPE, all": pope} | {f"POPE, {name}": part for name, part in pope["strategies"].items()}
    told = [""]
    for name, part in parts.items():
        told.append(
            f"{name:<20}accuracy {written(part['accuracy'])}, blind {written_share(part['blind_accuracy'])}, "
            f"F1 {part['f1']:.3f}, yes-ratio {part['yes_ratio']:.3f}, unparsed {part['unparsed']:.3f} "
            f"({part['num_items']} questions)"
        )
        if (read := part.get("published")) is not None:
            told.append(
                f"{'  as POPE reads':<20}free answers: accuracy {read['accuracy']:.3f}, F1 {read['f1']:.3f}, yes-ratio "
                f"{read['yes_ratio']:.3f} (published tables rest on its script, to which what it cannot read is a yes)"
            )
    return told
