"""What the numbers of a run may be compared with: data, protocol, versions, hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from raydistill import __version__
from raydistill.config import Sweep, sweep_identity
from raydistill.config.space import Section
from raydistill.models.checkpoint import content_of, read_config
from raydistill.records import SCHEMA_VERSION
from raydistill.training.tasks import task_of

_LIBRARIES = ("torch", "transformers", "datasets", "ray", "optuna", "numpy", "pandas")


def signature(sweep: Sweep, data: Any) -> dict[str, Any]:
    """Return the content of ``signature.json``.

    Raises:
        ModelError: A checkpoint that the sweep names is not there.
    """
    return {
        "schema": SCHEMA_VERSION,
        "sweep": sweep.name,
        "identity": sweep_identity(sweep),
        "task": sweep.task,
        "data": {
            "source": sweep.data.source,
            "hash": data.hash,
            "statistics": data.statistics,
            "provenance": data.provenance,
        },
        "protocol": task_of(sweep).protocol(sweep),
        "teacher": _given(sweep.teacher) | _checkpoints(sweep),
        "training": _given(sweep.training),
        "versions": {"raydistill": __version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "git": _git_commit(),
        "hardware": {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()},
    }


def _given(section: Section) -> dict[str, Any]:
    return {name: value for name, value in section.model_dump(mode="json").items() if value is not None}


def _checkpoints(sweep: Sweep) -> dict[str, str]:
    """Return which checkpoints these are: a hash of a folder's files, or the hub's revision."""
    found = {}
    for key, name in task_of(sweep).checkpoints(sweep).items():
        read_config(name)  # asks the hub, which may have another revision by now
        found[key] = content_of(name)
    return found


def _git_commit() -> str | None:
    """Return the commit of the source tree that runs, with ``+changes`` where it differs; None outside of one."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return f"{commit}+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()
