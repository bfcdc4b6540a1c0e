"""Norm-matched: plain tuning whose update is brought to a given size, to tell its size from its direction."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from textanchor.bounds import require_range
from textanchor.errors import ConfigError, DataError
from textanchor.files import read_json
from textanchor.training.method import AbstractMethod, Attachment, Needs
from textanchor.training.session import Session


@dataclass(frozen=True, kw_only=True)
class NormMatched(AbstractMethod):
    """Delta <- Delta * n / ||Delta||_F after plain tuning, for each trained part on its own.

    n is `relative_norm` times ||W0||_F of what is trained in the part, or the norm of the same part's update in another
    run of the same model. Scores taken during the run (a curve) are those before it.

    Source: our choice of a control; that magnitude explains much of forgetting is argued in arXiv 2603.14493.
    """

    relative_norm: float | None = None
    """||Delta||_F / ||W0||_F over the trained tensors of each part; give this or run."""
    run: Path | None = None
    """Output folder of another run of `adapt`, whose audit says how far each part moved."""

    def __post_init__(self) -> None:
        if (self.relative_norm is None) == (self.run is None):
            raise ConfigError("give exactly one of relative_norm and run, to whose norms the update is brought")
        require_range("relative_norm", self.relative_norm, above=0)

    @property
    def needs(self) -> Needs:
        """Nothing beside the training data."""
        return "nothing"

    def start(self, session: Session) -> Attachment:
        """Read the other run now, so that a mistake costs no training; rescale once the last step is done."""
        wanted = None if self.run is None else _norms_of(self.run, session)

        def finish() -> None:
            start, moved = defaultdict[str, float](float), defaultdict[str, float](float)
            for update in session.start.updates():
                start[update.part] += update.start_norm**2
                moved[update.part] += float(update.delta.norm()) ** 2
            target = wanted or {part: (self.relative_norm or 0.0) * math.sqrt(start[part]) for part in start}
            for part in moved:
                if part not in target or not moved[part] > 0:
                    raise ConfigError(
                        f"the {part} moved by {math.sqrt(moved[part]):.2g} here and by {target.get(part, 0.0):.2g} in "
                        f"{self.run or 'the request'}, so it cannot be rescaled; train the same parts in both runs"
                    )
            session.start.scale_updates({part: target[part] / math.sqrt(moved[part]) for part in moved})

        return Attachment(finish=finish)


def _norms_of(run: Path, session: Session) -> dict[str, float]:
    """||Delta||_F of each part in a finished run; DataError where it is none, or of another model."""
    if read_json(run / "run.json")["hashes"]["model"] != session.hashes["model"]:
        raise DataError(
            f"{run}: that run started from another model than this one; give a run of {session.config.model}"
        )
    trained = {update.name for update in session.start.updates()}
    squares = defaultdict[str, float](float)
    for row in read_json(run / "audit.json")["tensors"]:
        if row["change_norm"] > 0 and row["name"] not in trained:
            raise DataError(f"{run}: that run trained {row['name']}, which this one does not; train the same parts")
        squares[session.parts.part_of(row["name"])] += row["change_norm"] ** 2
    return {part: math.sqrt(square) for part, square in squares.items() if square > 0}
