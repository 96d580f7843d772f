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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each file to one process, so that its fixtures are made once, and all that start Ray to the same one."""
    for item in items:
        starts_ray = any(item.iter_markers("ray")) or any(item.iter_markers("cluster"))
        item.add_marker(pytest.mark.xdist_group("ray" if starts_ray else str(item.path)))
