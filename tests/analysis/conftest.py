"""Simulated run directories, built once."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_run import Simulation, build

from analysis.report import write

SMALL = {
    "selectors": ("fisher", "uniform", "tail", "random"),
    "trials": 9,
    "seeds": 3,
    "users": 80,
    "items": 120,
    "draws": 3,
    "epochs": 3,
}


@pytest.fixture(scope="session")
def small() -> dict:
    """Return the settings of a small simulated sweep."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory) -> Path:
    """Return a complete simulated run directory; tests must not change it."""
    return build(tmp_path_factory.mktemp("run") / "simulated", Simulation(**SMALL))


@pytest.fixture
def no_pictures(monkeypatch) -> None:
    """Leave out the pictures of a report, which take most of its time and are drawn by other tests."""
    monkeypatch.setattr(write, "pictures", lambda results, tables: iter(()))
