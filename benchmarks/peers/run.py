"""Peers, each in an environment of its own that a script here makes; one that cannot be installed is skipped aloud."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.measure import row

HERE = Path(__file__).parent
PEERS = {"RecBole SASRec": "recbole", "RecTools SASRec": "rectools"}
INSTALL_SECONDS, RUN_SECONDS = 900, 3600


def cache_folder() -> Path:
    """Return the folder of the peers' environments."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "raydistill-benchmarks"


def peers(data: Path | None) -> list[dict[str, Any]]:
    """Return the time of one epoch of each peer, 1 block and 64 dimensions, over the file of sequences.

    A peer's script prints ``epoch SECONDS`` and ``ranking SECONDS`` as its last lines.
    """
    if data is None:
        return [row("peers", name, None, note="skipped: needs --data Beauty.txt") for name in PEERS]
    rows = []
    for name, script in PEERS.items():
        environment = cache_folder() / script
        failed = _call(["bash", str(HERE / "install.sh"), script, str(environment)], INSTALL_SECONDS)[1]
        if failed:
            rows.append(row("peers", name, None, note=f"skipped: not installed ({failed})"))
            continue
        command = [str(environment / "bin" / "python"), str(HERE / f"{script}_epoch.py"), str(data)]
        output, failed = _call(command, RUN_SECONDS)
        if failed:
            rows.append(row("peers", name, None, note=f"skipped: it does not run here ({failed})"))
            continue
        for line in output.splitlines()[-2:]:
            work, seconds = line.split()
            rows.append(row("peers", f"{name}, {work}", float(seconds)))
    return rows


def _call(command: list[str], limit: int) -> tuple[str, str]:
    """Return what a command printed, and why it failed, if it did."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return "", f"more than {limit} s"
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return done.stdout, "" if done.returncode == 0 else last[:160]
