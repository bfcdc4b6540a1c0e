"""Method app with bases that the anchor is asked for: one configuration names them, the run gathers and holds them."""

from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import run_config
from textanchor.holds import Anchor
from textanchor.methods import app
from textanchor.training.adapt import adapt

REFERENCE = {"task": "existence", "num_images": 4}
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "sensitivity": ({"mode": "outputs", "basis": "reference_sensitivity", "num_kept": 6}, ["reference_sensitivity"]),
    "random_energy": ({"mode": "outputs", "basis": "random_energy", "num_kept": 6}, ["text_sensitivity"]),
    "coupling": ({"mode": "coupling", "basis": "visual", "num_kept": 6, "inner": "pullback"}, ["visual"]),
    "removed": ({"mode": "outputs", "basis": "hidden:1", "num_kept": 6, "target": "remove"}, ["hidden:1"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_gathers_the_bases_that_it_holds(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    projector, bases = CASES[case]
    anchors: list[Anchor] = []
    fit_anchor = app.fit_anchor

    def recorded(*args: Any, **options: Any) -> Anchor:
        anchors.append(fit_anchor(*args, **options))
        return anchors[-1]

    monkeypatch.setattr(app, "fit_anchor", recorded)
    method = {"name": "app", "projector": projector, "num_texts": 8, "reference": REFERENCE}
    model, processor = tiny_llava_with_processor()
    result = adapt(run_config(tmp_path / "run", method=method), model=model, processor=processor)
    (anchor,) = anchors
    assert anchor.provenance["bases"] == bases and set(bases) <= set(anchor.moments)
    rows = [row for row in result.audit.tensors if row.weight_leak is not None]
    assert rows
    for row in rows:
        assert row.weight_leak_bound is not None and row.weight_leak <= row.weight_leak_bound
        assert row.relative_update > 1e-4
    assert result.audit.reload_max_difference < 1e-4
