"""Two processes that work together on the CPU, over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def outcomes_of_two(script: str, folder: Path, *arguments: str, timeout: float) -> dict[str, Any]:
    """Return what two workers have written to ``folder``, by name of the JSON file, or fail with what one has said.

    Args:
        script: File beside this one; it is called with a worker's rank, the arguments, and the folder.
        folder: Where they write.
        arguments: Further ones.
        timeout: Seconds.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    workers = [
        subprocess.Popen(
            [sys.executable, str(HERE / script), str(rank), *arguments, str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=timeout)
        assert worker.returncode == 0, errors[-3000:]
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
