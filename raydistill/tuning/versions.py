"""Which code runs where: nodes that differ would give results that cannot be compared."""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import ray

from raydistill import __version__
from raydistill.tuning.refusals import OtherCodeError


@cache
def versions() -> dict[str, str]:
    """Return the versions that must be equal on all nodes."""
    import torch

    return {
        "raydistill": f"{__version__} ({code_hash()})",
        "ray": ray.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__.partition("+")[0],
    }


def code_hash(folder: Path | None = None) -> str:
    """Return 8 hex digits that name the content of raydistill's code: a copy that is out of date has others."""
    folder = folder or Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return what differs between a node and the place where the sweep was started, as text."""
    return [f"{name} {there.get(name)} (here {own})" for name, own in here.items() if there.get(name) != own]


def check_versions(expected: Mapping[str, str]) -> None:
    """Refuse to work on a node that runs other code than the sweep: machines may join long after it has started.

    Raises:
        OtherCodeError: With what is different.
    """
    other = differences(versions(), expected)
    if other:
        raise OtherCodeError.of(socket.gethostname(), other)
