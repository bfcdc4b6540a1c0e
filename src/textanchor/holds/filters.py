"""The filters of one hold, from an anchor's moments; linears that receive the same states share one."""

from textanchor.errors import HoldError
from textanchor.holds.anchor import INPUTS, TEXT_EMBEDDING, Anchor
from textanchor.holds.filter import FilterConfig
from textanchor.holds.rules import num_free
from textanchor.holds.targets import Target
from textanchor.spectral import Moments, Subspace, input_basis, output_basis


class Filters:
    """Makes each filter once."""

    def __init__(self, anchor: Anchor, config: FilterConfig) -> None:
        self.anchor, self.config = anchor, config
        self._made: dict[tuple[str, bool], Subspace] = {}

    def inputs(self, target: Target, name: str | None = None) -> Subspace:
        """Filter on what enters a linear: of the state with its constant where the bias trains along, else without."""
        name = f"{INPUTS}/{target.name}" if name is None else name
        moments = self._moments(name, target, target.weight.shape[1])
        key = self.anchor.source_of(name), target.has_bias
        if key not in self._made:
            self._made[key] = self.checked(
                target.name, self.config.subspace(input_basis(moments, with_constant=key[1]))
            )
        return self._made[key]

    def outputs(self, target: Target, name: str = TEXT_EMBEDDING) -> Subspace:
        """Filter on what a linear writes into text space."""
        self._moments(name, target, target.weight.shape[0])
        return self.text_space(target.weight.shape[0], name)

    def text_space(self, width: int, name: str = TEXT_EMBEDDING) -> Subspace:
        """Filter on text space; HoldError where the embedding's width is another."""
        moments = self.anchor[name]
        if moments.width != width:
            raise HoldError(
                f"the anchor's {name} is {moments.width} wide and the outputs are {width} wide; fit it on this model"
            )
        if (name, False) not in self._made:
            subspace = self.config.subspace(output_basis(moments), complement=self.config.mode == "manifold")
            self._made[name, False] = self.checked(name, subspace)
        return self._made[name, False]

    def _moments(self, name: str, target: Target, width: int) -> Moments:
        moments = self.anchor[name]
        if moments.width != width:
            raise HoldError(
                f"{target.name}: its weight is {tuple(target.weight.shape)}, but the anchor's {name} is "
                f"{moments.width} wide; fit the anchor on this model, and give inputs for side 'in', outputs for 'out'"
            )
        return moments

    def checked(self, name: str, subspace: Subspace) -> Subspace:
        """The filter itself; HoldError where `share` would have nothing to compare its protected part with."""
        if self.config.hold == "share" and not num_free(subspace):
            raise HoldError(
                f"{name}: hold='share' compares the protected part with the rest, but {self.config.amount} with gains "
                f"{self.config.gains!r} leaves no direction free; hold fewer directions, or use decay"
            )
        return subspace
