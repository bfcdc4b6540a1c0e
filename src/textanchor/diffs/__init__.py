"""What happened to a tuned model: two checkpoints, compared tensor by tensor without running either."""

from textanchor.diffs.report import DiffReport
from textanchor.diffs.run import diff

__all__ = ["DiffReport", "diff"]
