"""What can be seen of a sweep from outside while it runs: metrics for Prometheus, and trials by name."""

from __future__ import annotations

import re
import urllib.error
import urllib.request

import pytest
from sweep_process import SweepProcess, titles

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]

WANTED = (
    r'raydistill_trials_total\{[^}]*Arm="uniform"[^}]*\} [1-9]',
    r'raydistill_best_validation\{[^}]*Arm="uniform"[^}]*\} 0\.[0-9]+',
    r"raydistill_trials_per_hour\{[^}]*\} [1-9]",
    r'raydistill_targets_per_second\{[^}]*Arm="uniform"[^}]*\} [1-9]',
    r"ray::DistillTrainable confirm uniform keep=0\.5 seed=",
)


def exported(port: int) -> str:
    """Return what a node's metrics endpoint says; nothing where it does not answer yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError):
        return ""


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
    missing = {*WANTED}

    def everything_seen() -> bool:
        text = exported(port) + "\n".join(title for _, title in titles())
        missing.difference_update([pattern for pattern in missing if re.search(pattern, text, re.IGNORECASE)])
        return not missing

    sweep.wait_for(everything_seen, waiting_for=missing)
    names = {path.name.rpartition("_")[0] for path in run.glob("ray/tune/*/*keep=*")}
    assert "search_uniform_keep=0.5_#0" in names
    sweep.finish()
