"""Tables of step zero from its records: what removing a band of an update costs and what it gives back."""

from textanchor.report.step_zero.rows import pack

__all__ = ["pack"]
