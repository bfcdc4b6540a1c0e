"""Hold what a model had while it is tuned: fit an anchor, plan the holds, attach them to the optimizer, audit.

Needs torch and safetensors only, so it can be used beside any trainer.
"""

from textanchor.holds.anchor import Anchor
from textanchor.holds.attach import HoldHandle, attach
from textanchor.holds.audit import AuditReport, AuditRow, FunctionAudit, audit_plan
from textanchor.holds.entries import HeldProjector, HeldTensor
from textanchor.holds.filter import FilterConfig
from textanchor.holds.fit import fit_anchor
from textanchor.holds.linear import HeldLinear
from textanchor.holds.penalty import ProjectorPenalty
from textanchor.holds.plan import HoldPlan
from textanchor.holds.planning import plan_holds
from textanchor.holds.probe import Probe, take_probe

__all__ = [
    "Anchor",
    "AuditReport",
    "AuditRow",
    "FilterConfig",
    "FunctionAudit",
    "HeldLinear",
    "HeldProjector",
    "HeldTensor",
    "HoldHandle",
    "HoldPlan",
    "Probe",
    "ProjectorPenalty",
    "attach",
    "audit_plan",
    "fit_anchor",
    "plan_holds",
    "take_probe",
]
