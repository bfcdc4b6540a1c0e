"""Two processes give the weights and leaks of one, under DDP and under FSDP2 with uneven and empty shards."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import held_networks
from helpers.held_networks import CASES, WRAPPERS, in_one_process


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("two_processes")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, held_networks.__file__, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(Path(folder) / "results.pt", weights_only=True)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(case: str, wrapper: str, results: dict[str, Any]) -> None:
    alone, together = in_one_process(case), results[f"{wrapper}/{case}"]
    assert alone["weights"].keys() == together["weights"].keys()
    start = dict(held_networks.network(case).named_parameters())
    assert any((alone["weights"][name] - start[name]).abs().max() > 1e-2 for name in start)
    for name, expected in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], expected, atol=1e-5, rtol=0)
    for key in ("leaks", "saved"):
        assert together[key] == pytest.approx(alone[key], abs=1e-5, rel=1e-3)
    if case.endswith("exact"):
        assert max(together["leaks"]) < 1e-6
