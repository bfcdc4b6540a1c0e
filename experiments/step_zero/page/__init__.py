"""Tables of step zero from its records: what removing a band of an update costs and what it gives back."""

from page.rows import pack
from page.tables import step_zero_stages, step_zero_tables

__all__ = ["pack", "step_zero_stages", "step_zero_tables"]
