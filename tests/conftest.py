"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read when torch is imported: models as small as those of the tests only lose by several threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder with real data sets, or skip aloud where none is named."""
    folder = os.environ.get("RAYDISTILL_DATA")
    if folder is None or not Path(folder).is_dir():
        pytest.skip("no real data: set RAYDISTILL_DATA to a folder with ml-latest-small and amazon-beauty")
    return Path(folder)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes share the tests: as many as cores, and one where Ray starts, which takes them all."""
    wanted = config.option.markexpr
    alone = any(mark in wanted and f"not {mark}" not in wanted for mark in ("ray", "cluster", "gpu"))
    return 0 if alone else min(8, os.cpu_count() or 1)
