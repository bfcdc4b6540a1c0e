"""Tables of step zero from its records: what removing a band of an update costs and what it gives back."""

from textanchor.report.step_zero.rows import pack
from textanchor.report.step_zero.tables import step_zero_stages, step_zero_tables

__all__ = ["pack", "step_zero_stages", "step_zero_tables"]
