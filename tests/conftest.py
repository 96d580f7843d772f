"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read when torch is imported: models as small as those of the tests only lose by several threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder with real data sets, or skip aloud on a machine that has none."""
    folder = Path(os.environ.get("RAYDISTILL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set RAYDISTILL_DATA to a folder with ml-latest-small and amazon-beauty")
    return folder


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes share the tests: as many as cores, and one where Ray starts, which takes them all."""
    wanted = config.option.markexpr
    alone = any(mark in wanted and f"not {mark}" not in wanted for mark in ("ray", "cluster", "gpu"))
    return 0 if alone else min(8, os.cpu_count() or 1)
