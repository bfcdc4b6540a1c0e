"""Plain text: cross-entropy for each token, and the divergence from a base model."""

from textanchor.evaluation.results.values import Metrics, Summary, per_unit, written


def summarise(metrics: Metrics) -> Summary:
    """Nats for each token, with `kl_to_base` where a base was given."""
    num_tokens = metrics["num_tokens"]
    summary: Summary = {
        "cross_entropy": per_unit(metrics["nats"], num_tokens),
        "num_tokens": int(sum(num_tokens.values())),
    }
    if "base_kl" in metrics:
        summary["kl_to_base"] = per_unit(metrics["base_kl"], num_tokens)
    return summary


def lines(text: Summary) -> list[str]:
    """One line."""
    line = f"text: {written(text['cross_entropy'])} nats for each of {text['num_tokens']} tokens"
    kl = f", KL to the base {written(text['kl_to_base'])}" if "kl_to_base" in text else "; --base gives the KL to it"
    return ["", line + kl]
