"""Mend a tuned model without training: take back, once, a part of what tuning changed."""

from textanchor.repairs.plan import RepairPlan
from textanchor.repairs.report import RepairReport
from textanchor.repairs.run import repair, repair_tensors

__all__ = ["RepairPlan", "RepairReport", "repair", "repair_tensors"]
