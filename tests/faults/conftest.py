"""The sweep that disturbed ones are compared with."""

from __future__ import annotations

import pytest
from sweep_process import Reference, SweepProcess, facts


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Reference:
    """Return a sweep that nothing has disturbed."""
    storage = tmp_path_factory.mktemp("storage")
    root = storage / "undisturbed"
    SweepProcess(root, storage).finish()
    return Reference(root, storage, facts(root))
