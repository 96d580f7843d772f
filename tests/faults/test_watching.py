"""What can be seen of a sweep from outside while it runs: metrics for Prometheus, and trials by name."""

from __future__ import annotations

import re
import urllib.error
import urllib.request

import psutil
import pytest
from sweep_process import SweepProcess

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]

WANTED = (
    r'raydistill_trials_total\{[^}]*Arm="uniform"[^}]*\} [1-9]',
    r'raydistill_best_validation\{[^}]*Arm="uniform"[^}]*\} 0\.[0-9]+',
    r"raydistill_trials_per_hour\{[^}]*\} [1-9]",
    r'raydistill_targets_per_second\{[^}]*Arm="uniform"[^}]*\} [1-9]',
)


def exported(port: int) -> str:
    """Return what a node's metrics endpoint says; nothing where it does not answer yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError):
        return ""


def ray_titles() -> set[str]:
    """Return the titles of all of Ray's processes on this machine."""
    found = set()
    for process in psutil.process_iter():
        try:
            found.update(process.cmdline()[:1])
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return {title for title in found if title.startswith("ray::")}


def test_metrics_and_names_of_a_running_sweep(reference, tmp_path, cluster):
    run = reference.copy(tmp_path / "run", without=("trials", "studies", "report"))
    sweep = SweepProcess(
        run,
        reference.storage,
        f"execution.address={cluster.address}",
        "confirm.seeds=12",  # long enough for Prometheus to come by
        RAY_AUTH_MODE="disabled",
        RAY_metrics_report_interval_ms="1000",
    )
    port = cluster.head_node.metrics_export_port
    seen: set[str] = set()

    titles: set[str] = set()

    def everything_seen() -> bool:
        text = exported(port)
        titles.update(title for title in ray_titles() if "keep=" in title)
        seen.update(pattern for pattern in WANTED if re.search(pattern, text, re.IGNORECASE))
        return len(seen) == len(WANTED)

    sweep.wait_for(everything_seen)
    assert any("confirm uniform keep=0.5 seed=" in title for title in titles), titles
    names = {path.name.rpartition("_")[0] for path in run.glob("ray/tune/*/*keep=*")}
    assert "search_uniform_keep=0.5_#0" in names
    sweep.finish()
