"""What is held, how much of it and how hard: the options of one hold. What fits a kind of linear is in `legal.py`."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from textanchor.bounds import require_range, require_seed
from textanchor.errors import ConfigError
from textanchor.holds.sources import (
    BOTTOM,
    IDENTITY,
    OWN_INPUTS,
    RANDOM,
    RANDOM_ENERGY,
    TEXT_EMBEDDING,
    require_basis,
)
from textanchor.spectral import Subspace

Mode = Literal["outputs", "manifold", "inputs", "coupling"]
Gains = Literal["top", "ridge", "power"]
Hold = Literal["exact", "share", "penalty", "decay"]
Inner = Literal["frozen", "pullback"]
Goal = Literal["preserve", "remove"]
Gradients = Literal["whole", "projected"]

DEFAULT_GAIN_PARAMETER = {"ridge": 1.0, "power": 0.5}
DEFAULT_STRENGTH = {"penalty": 10.0, "decay": 100.0}
AMOUNTS = ("num_kept", "kept_fraction", "kept_energy")


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which directions of a linear are protected, and by which rule; an option without effect is a ConfigError."""

    mode: Mode
    """outputs: nothing new is written into the chosen text directions; manifold: nothing outside them; inputs: what a
    linear did to its top input directions stays; coupling: what it maps from those to the chosen text directions."""
    basis: str | None = None
    """Where the directions come from: of the outputs text_embedding (default), hidden:<layer>, text_sensitivity,
    reference_sensitivity or visual; of mode inputs the linear's own inputs (default). Controls for each: random,
    random_energy, bottom, identity."""
    basis_seed: int | None = None
    """Seed of random and random_energy (0)."""
    num_kept: int | None = None
    """Number of directions. Exactly one of num_kept, kept_fraction and kept_energy is given."""
    kept_fraction: float | None = None
    """Share of the D directions, in (0, 1]."""
    kept_energy: float | None = None
    """As many directions as carry this share of the energy, in (0, 1]."""
    gains: Gains = "top"
    """Gains of the chosen directions: top is 1 for each, ridge and power fall with their energy."""
    gain_parameter: float | None = None
    """ridge: noise relative to the mean energy (1.0); power: the exponent (0.5)."""
    hold: Hold = "exact"
    """exact: the protected part of the change is taken away after each step; share: it is capped; decay: it decays;
    penalty: it costs, by what the projector gives on the batch."""
    share: float | None = None
    """hold=share: cap of the protected part, in units of its isotropic share of the rest (0.1)."""
    strength: float | None = None
    """penalty: weight of the loss term (10); decay: rate, in units of lr / rms of the weight (100)."""
    target: Goal = "preserve"
    """preserve: changes count from the start W0; remove: from (I - P) W0, which takes W0's place when training begins,
    so that the last projector linear writes nothing into the protected directions."""
    inner: Inner | None = None
    """outputs, manifold and coupling: what the linears do whose outputs are not in text space, which are those before
    the projector's last one, and in the language model all but o_proj and down_proj (frozen); pullback, for the
    projector, holds them by what they do to the last one."""
    gradients: Gradients = "whole"
    """exact: projected also keeps the protected part out of the gradients, before they are clipped."""
    norm_cap: float | None = None
    """Largest norm of a linear's whole change, relative to the norm of its weight; free where it is left out."""

    def __post_init__(self) -> None:
        self._default("basis", OWN_INPUTS if self.mode == "inputs" else TEXT_EMBEDDING)
        require_basis(str(self.basis), self.mode)
        self._check_amount()
        self._check_gains()
        self._check_hold()
        self._check_controls()
        self._check_target()
        self._check_options()

    def _check_amount(self) -> None:
        given = [name for name in AMOUNTS if getattr(self, name) is not None]
        if self.basis == IDENTITY:
            if given:
                raise ConfigError(f"{given[0]} has no effect with basis='identity', which holds all directions; remove")
            return
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ConfigError(f"give exactly one of num_kept, kept_fraction and kept_energy, found {found}")
        value = getattr(self, given[0])
        is_valid = value >= 1 if given[0] == "num_kept" else 0 < value <= 1
        if not is_valid:
            bounds = "at least 1" if given[0] == "num_kept" else "greater than 0 and at most 1"
            raise ConfigError(f"{given[0]} must be {bounds}, found {value}")

    def _check_gains(self) -> None:
        if self.gains == "top":
            if self.gain_parameter is not None:
                raise ConfigError("gain_parameter has no effect with gains='top'; remove it, or choose ridge or power")
        elif self.hold == "exact":
            raise ConfigError(
                "hold='exact' takes gains of 0 or 1 only (a part taken from the whole change at each step adds up to "
                f"all), found gains={self.gains!r}; set gains='top', or hold='share', 'decay' or 'penalty'"
            )
        elif self.basis in (BOTTOM, RANDOM_ENERGY, IDENTITY):
            raise ConfigError(
                f"gains={self.gains!r} fall with the energy of directions, which basis={self.basis!r} does not choose "
                "by it; set gains='top', or basis='random', which takes over the gains of the true directions"
            )
        else:
            self._default("gain_parameter", DEFAULT_GAIN_PARAMETER[self.gains])
            require_range("gain_parameter", self.gain_parameter, above=0)

    def _check_hold(self) -> None:
        if self.hold == "share":
            self._default("share", 0.1)
            if self.share is None or not self.share >= 0:
                raise ConfigError(f"share must be 0 or greater, found {self.share}")
        elif self.share is not None:
            raise ConfigError(f"share has no effect with hold={self.hold!r}; remove it, or set hold='share'")
        if self.hold in DEFAULT_STRENGTH:
            self._default("strength", DEFAULT_STRENGTH[self.hold])
            require_range("strength", self.strength, above=0)
        elif self.strength is not None:
            raise ConfigError(f"strength has no effect with hold={self.hold!r}; remove it, or choose decay or penalty")

    def _check_controls(self) -> None:
        if self.basis in (RANDOM, RANDOM_ENERGY):
            self._default("basis_seed", 0)
            require_seed(self.basis_seed or 0, "basis_seed")
        elif self.basis_seed is not None:
            raise ConfigError(f"basis_seed has no effect with basis={self.basis!r}; remove it, or set basis='random'")
        if self.basis != IDENTITY:
            return
        if self.hold in ("exact", "share"):
            raise ConfigError(
                f"hold={self.hold!r} with basis='identity' leaves nothing free; freeze this part instead (train: "
                "frozen), or set hold='decay' (decoupled L2-SP) or 'penalty'"
            )
        if self.mode in ("manifold", "coupling"):
            what = "holds nothing: nothing lies outside all directions"
            what = what if self.mode == "manifold" else "is mode='inputs'; set that"
            raise ConfigError(f"mode={self.mode!r} with basis='identity' {what}")
        if self.inner == "pullback":
            raise ConfigError("inner='pullback' has no amount to hold with basis='identity'; set inner='frozen'")

    def _check_target(self) -> None:
        if self.target == "preserve":
            return
        if self.mode == "inputs" or self.basis == IDENTITY:
            raise ConfigError(
                "target='remove' takes directions out of what the projector writes, so it is legal with mode outputs, "
                f"manifold or coupling and a basis of such directions, found mode={self.mode!r}, basis={self.basis!r}"
            )
        if self.gains != "top" or self.inner == "pullback":
            raise ConfigError("target='remove' takes whole directions out of the last linear: gains='top', no pullback")

    def _check_options(self) -> None:
        if self.inner is not None and (self.mode == "inputs" or self.hold == "penalty"):
            raise ConfigError(
                f"inner={self.inner!r} has no effect with mode={self.mode!r} and hold={self.hold!r}, where inner "
                "linears are held like the last; remove it"
            )
        if self.gradients == "projected" and self.hold != "exact":
            raise ConfigError(
                f"gradients='projected' is an option of hold='exact'; with hold={self.hold!r}, under which protected "
                "directions may move, set gradients='whole'"
            )
        if self.norm_cap is not None:
            require_range("norm_cap", self.norm_cap, above=0)
            if self.hold == "penalty":
                raise ConfigError("norm_cap has no effect with hold='penalty', which writes no weights; remove it")

    def _default(self, name: str, value: float | str) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    @property
    def amount(self) -> str:
        """How much is held, as it was given."""
        given = (f"{name}={getattr(self, name)}" for name in AMOUNTS if getattr(self, name) is not None)
        return next(given, "all directions")

    @property
    def needs_whole_start(self) -> bool:
        """Whether the rule works on the whole change, not only on its protected part."""
        return self.hold == "share" or self.norm_cap is not None

    def describe(self, subspace: Subspace, across: Subspace | None = None) -> str:
        """One phrase for tables: mode, number of protected directions, and what is not the default."""
        soft = "" if self.gains == "top" else f", {self.gains} {self.gain_parameter:g}"
        origin = "" if self.basis in (OWN_INPUTS, TEXT_EMBEDDING) else f", {self.basis}"
        removed = "" if self.target == "preserve" else ", removed"
        counts = " to ".join(
            f"{filtered.num_protected:.4g} of {filtered.width}" for filtered in (subspace, across) if filtered
        )
        return f"{self.mode}: {counts} directions{soft}{origin}{removed}"

    def rule(self) -> str:
        """Name of the rule with its parameter, such as `share 0.1`."""
        parameter: float | Tensor | None = self.share if self.share is not None else self.strength
        return self.hold if parameter is None else f"{self.hold} {parameter:g}"
