"""CHAIR: how many of the objects that captions name are not in the image (arXiv 1809.02156, section 3)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from textanchor.data.hallucination import ObjectVocabulary
from textanchor.errors import DataError
from textanchor.evaluation.results.values import Metrics, Summary, written, written_share
from textanchor.stats import bootstrap_interval


@dataclass(frozen=True)
class CaptionCounts:
    """What one caption says about the objects of its image."""

    num_mentions: int
    """Object mentions, repeats included."""
    num_hallucinated: int
    """Mentions of objects that are not in the image."""
    num_objects: int
    """Different objects in the image."""
    num_recalled: int
    """Different objects of the image that are mentioned."""
    num_words: int


@dataclass(frozen=True)
class ChairMetrics:
    """CHAIR of a set of captions, with the recall and length without which it says little."""

    chair_i: float | None
    """Hallucinated mentions / mentions; None where no caption mentions an object."""
    chair_s: float
    """Captions with at least one hallucinated mention / captions."""
    recall: float
    """Mentioned objects of the images / objects of the images."""
    mean_length: float
    """Words of a caption."""


def count_mentions(caption: str, objects: Sequence[str], vocabulary: ObjectVocabulary) -> CaptionCounts:
    """Counts for a caption of an image with these objects; DataError where an object is not in the vocabulary."""
    present = set(objects)
    unknown = present - vocabulary.synonyms.keys()
    if unknown:
        raise DataError(
            f"the object {min(unknown)!r} of an image is not in the vocabulary; add it, or its mentions are lost"
        )
    mentions = vocabulary.mentions(caption)
    return CaptionCounts(
        num_mentions=len(mentions),
        num_hallucinated=sum(name not in present for name in mentions),
        num_objects=len(present),
        num_recalled=len(present & set(mentions)),
        num_words=len(caption.split()),
    )


def chair_metrics(counts: Sequence[CaptionCounts]) -> ChairMetrics:
    """CHAIR over all captions; mentions and objects are pooled, as in the paper."""
    mentions, objects = sum(c.num_mentions for c in counts), sum(c.num_objects for c in counts)
    if objects == 0:
        raise ValueError("CHAIR needs captions of at least one image with an object, because recall is of those")
    return ChairMetrics(
        chair_i=sum(c.num_hallucinated for c in counts) / mentions if mentions else None,
        chair_s=sum(c.num_hallucinated > 0 for c in counts) / len(counts),
        recall=sum(c.num_recalled for c in counts) / objects,
        mean_length=sum(c.num_words for c in counts) / len(counts),
    )


def summarise(metrics: Metrics) -> Summary:
    """CHAIR with intervals of its share of captions and of their length."""
    fields = CaptionCounts.__dataclass_fields__
    counts = [CaptionCounts(**{f: int(metrics[f][item]) for f in fields}) for item in metrics["num_mentions"]]
    summary: Summary = asdict(chair_metrics(counts))
    summary["chair_s"] = asdict(bootstrap_interval([float(c.num_hallucinated > 0) for c in counts]))
    summary["mean_length"] = asdict(bootstrap_interval([c.num_words for c in counts]))
    summary["num_items"] = len(counts)
    return summary


def lines(chair: Summary) -> list[str]:
    """One line."""
    return [
        "",
        f"CHAIR_i {written_share(chair['chair_i'])}, CHAIR_s {written(chair['chair_s'])}, "
        f"recall {chair['recall']:.3f}, {chair['mean_length']['estimate']:.1f} words ({chair['num_items']} captions)",
    ]
