"""A whole sweep whose trials share one GPU. Needs a GPU: ``pytest -m gpu``."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

ROOT = Path(__file__).parents[2]


def test_four_trials_share_one_gpu(tmp_path):
    run = tmp_path / "run"
    shares = ("execution.gpus_per_trial=0.25", "execution.gpus_per_worker=1", "training.precision=bfloat16")
    overrides = [text for share in shares for text in ("--set", share)]
    command = [sys.executable, "-m", "raydistill.sweep", "sweeps/smoke.yaml", "--run-dir", str(run), *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = [json.loads(file.read_text()) for file in run.glob("trials/*/record.json")]
    trained = [record for record in records if record["kind"] == "selector"]
    assert trained
    for record in trained:
        assert record["status"] in ("success", "stopped")
        assert record["cost"]["peak_device_memory_bytes"] > 0
    # Several at once: some trial began before another, of another process, had ended.
    spans = sorted((record["started"], record["finished"]) for record in records)
    assert any(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans))
    assert (run / "report" / "index.html").is_file()
