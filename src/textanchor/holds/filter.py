"""What is held, how much of it and how hard: the options of one hold."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from textanchor.errors import ConfigError
from textanchor.spectral import Basis, Subspace, direction_gains, num_selected

Mode = Literal["outputs", "manifold", "inputs"]
Gains = Literal["top", "ridge", "power"]
Hold = Literal["exact", "share", "penalty", "decay"]
Inner = Literal["frozen", "pullback"]

DEFAULT_GAIN_PARAMETER = {"ridge": 1.0, "power": 0.5}
DEFAULT_STRENGTH = {"penalty": 10.0, "decay": 100.0}


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which directions of a linear are protected, and by which rule; an option without effect is a ConfigError."""

    mode: Mode
    """outputs: nothing new is written into the top text directions; manifold: nothing outside them;
    inputs: what a linear did to its top input directions stays."""
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
    inner: Inner | None = None
    """outputs and manifold on the projector: what the linears before the last one do (frozen)."""

    def __post_init__(self) -> None:
        self._check_amount()
        self._check_gains()
        self._check_hold()
        if self.inner is not None and (self.mode == "inputs" or self.hold == "penalty"):
            raise ConfigError(
                f"inner={self.inner!r} has no effect with mode={self.mode!r} and hold={self.hold!r}, where inner "
                "linears are held like the last; remove it"
            )

    def _check_amount(self) -> None:
        given = [name for name in ("num_kept", "kept_fraction", "kept_energy") if getattr(self, name) is not None]
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
        else:
            self._default("gain_parameter", DEFAULT_GAIN_PARAMETER[self.gains])
            self._require_positive("gain_parameter")

    def _check_hold(self) -> None:
        if self.hold == "share":
            self._default("share", 0.1)
            if self.share is None or not self.share >= 0:
                raise ConfigError(f"share must be 0 or greater, found {self.share}")
        elif self.share is not None:
            raise ConfigError(f"share has no effect with hold={self.hold!r}; remove it, or set hold='share'")
        if self.hold in DEFAULT_STRENGTH:
            self._default("strength", DEFAULT_STRENGTH[self.hold])
            self._require_positive("strength")
        elif self.strength is not None:
            raise ConfigError(f"strength has no effect with hold={self.hold!r}; remove it, or choose decay or penalty")

    def _default(self, name: str, value: float) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    def _require_positive(self, name: str) -> None:
        if not getattr(self, name) > 0:
            raise ConfigError(f"{name} must be greater than 0, found {getattr(self, name)}")

    @property
    def amount(self) -> str:
        """How much is held, as it was given."""
        names = ("num_kept", "kept_fraction", "kept_energy")
        return next(f"{name}={getattr(self, name)}" for name in names if getattr(self, name) is not None)

    def subspace(self, basis: Basis, *, complement: bool = False) -> Subspace:
        """The filter P on the directions chosen of `basis`, or with `complement` on all but those."""
        energies_K = basis.energies_K[basis.num_sinks :]
        count = num_selected(
            energies_K, num_kept=self.num_kept, kept_fraction=self.kept_fraction, kept_energy=self.kept_energy
        )
        gains_K = basis.energies_K.new_ones(len(basis.energies_K))
        gains_K[basis.num_sinks :] = direction_gains(energies_K, count, self.gains, self.gain_parameter)
        return Subspace.of(basis, gains_K, complement=complement)

    def describe(self, subspace: Subspace) -> str:
        """One phrase for tables: mode, number of protected directions, and gains that are not 0 or 1."""
        soft = "" if self.gains == "top" else f", {self.gains} {self.gain_parameter:g}"
        return f"{self.mode}: {subspace.num_protected:.4g} of {subspace.width} directions{soft}"

    def rule(self) -> str:
        """Name of the rule with its parameter, such as `share 0.1`."""
        parameter: float | Tensor | None = self.share if self.share is not None else self.strength
        return self.hold if parameter is None else f"{self.hold} {parameter:g}"
