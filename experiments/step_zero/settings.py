"""What step zero measures, and on how much; every key is in config.yaml."""

from dataclasses import dataclass, field

from textanchor.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class References:
    """Where the bands come from: texts, and unlabelled images like the retained tasks' with questions about them."""

    sources: tuple[str, ...]
    """Tasks of textanchor, or folder:PATH."""
    split: str = "validation"
    """Split of the sources, which the evaluation does not use."""
    num_images: int
    num_texts: int
    num_folds: int = 10
    """Of the jackknife of overlaps."""
    hidden: tuple[int, ...] = ()
    """Depths of the language model whose text states give bands."""
    num_drift_images: int
    """Further images, and as many of the new task, on which the energy of a drift is measured."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """One plain update."""

    steps: int
    batch_size: int
    num_images: int
    """Conversations of the new task."""
    projector_learning_rate: float
    lora_learning_rate: float | None = None
    """The language model stays frozen where this is left out."""
    lora_rank: int = 8


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """(a) Random maps into a band of the projector's outputs."""

    bands: tuple[str, ...]
    num_directions: int
    """Of each band; identity has all."""
    energies: tuple[float, ...]
    """Energy of the perturbation, relative to that of the projector's outputs."""
    num_draws: int
    num_items: int
    """Of each retained task."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """(b) Bands taken out of an update of the projector, and (d) the oracle."""

    tuning: Tuning
    seeds: tuple[int, ...]
    shares: dict[str, tuple[float, ...]]
    """Band -> shares of the drift's energy that are removed."""
    front: tuple[float, ...]
    """Alphas of WiSE-FT between 0 and 1, both of which are measured in any case."""
    oracle_bands: tuple[str, ...] = ()
    oracle_counts: tuple[int, ...] = ()
    oracle_fractions: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Band of the inputs -> fractions of its leading directions that are taken out in full."""
    oracle_seeds: tuple[int, ...] = ()
    num_items: int
    """Of each retained task."""
    num_new_items: int


@dataclass(frozen=True, kw_only=True)
class LoraAblation:
    """(c) Bands taken out of the inputs of every linear of the language model."""

    tuning: Tuning
    seeds: tuple[int, ...]
    shares: dict[str, tuple[float, ...]]
    """Band -> shares of ||Delta W||^2 that are removed of every linear."""
    front: tuple[float, ...]
    num_items: int
    num_new_items: int
    num_anchor_texts: int
    num_texts: int
    """Texts whose cross-entropy is measured."""
    max_tokens: int
    """A longer text is cut."""

    def __post_init__(self) -> None:
        if self.tuning.lora_learning_rate is None:
            raise ConfigError("lora.tuning.lora_learning_rate is missing: there would be no LoRA update to look at")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole of step zero."""

    model: str
    """embedded, or a folder."""
    name: str
    """Of the base model in the records."""
    retained: tuple[str, ...]
    """Suites of what the model can do already: tasks of textanchor, or folder:PATH."""
    new_tasks: tuple[str, ...]
    """Tasks of textanchor to tune on."""
    reference: References
    overlap_counts: tuple[int, ...]
    spectrum: Spectrum
    ablation: Ablation
    lora: LoraAblation
    seed: int = 0
    autocast: bool = False
    """Language model in bfloat16 in all evaluations."""
