"""The machine fails the sweep: no memory, no disk, no room in the object store, a clock that jumps."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sweep_process import SweepProcess, facts
from tampering import CLOCK_THAT_JUMPS, OUT_OF_MEMORY, python_path

from raydistill.records import Record, RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]

TRIALS = ("trials", "studies", "report")
SMALL_DISK = """
size=$1 start=$2 disk=$3 result=$4; shift 4
mkdir -p "$disk" && mount -t tmpfs -o size="$size" tmpfs "$disk" && cp -a "$start"/. "$disk" || exit 90
"$@"; echo "ended with $?"
mount -o remount,size=1g "$disk"; "$@"; code=$?
cp -a "$disk"/. "$result"; exit $code
"""
FILLER = """
import sys, time
import numpy as np, ray
ray.init(address=sys.argv[1], log_to_driver=False)
held = [ray.put(np.ones(10 << 20, dtype=np.uint8)) for _ in range(12)]
print("full", flush=True)
time.sleep(3600)
"""


def test_a_trial_out_of_memory_fails_with_the_reason_and_the_sweep_goes_on(reference, tmp_path):
    run = reference.copy(tmp_path / "run", without=TRIALS)
    starved = python_path(tmp_path / "tampering", OUT_OF_MEMORY)
    said = SweepProcess(run, reference.storage, PYTHONPATH=starved).finish()
    assert "lost: search uniform keep=0.5 #1: MemoryError" in said
    assert "failed: search uniform keep=0.5 #1: MemoryError" in said
    records = [record for _, record in RunDirectory(run).records() if isinstance(record, Record)]
    assert [record.name for record in records if record.status == "failed"] == ["search uniform keep=0.5 #1"]
    assert len(records) == len(reference.facts)
    # With memory again the same command mends it, and what had followed from the failure.
    SweepProcess(run, reference.storage).finish()
    assert facts(run) == reference.facts


def test_a_clock_that_jumps_by_days_changes_nothing(reference, tmp_path):
    run = reference.copy(tmp_path / "run", without=TRIALS)
    SweepProcess(run, reference.storage, PYTHONPATH=python_path(tmp_path / "tampering", CLOCK_THAT_JUMPS)).finish()
    assert facts(run) == reference.facts


def test_a_full_object_store_changes_nothing(reference, tmp_path, cluster):
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    filler = subprocess.Popen([sys.executable, "-c", FILLER, cluster.address], stdout=subprocess.PIPE, text=True)
    try:
        assert filler.stdout.readline() == "full\n"
        run = reference.copy(tmp_path / "run", without=TRIALS)
        SweepProcess(run, reference.storage, f"execution.address={cluster.address}", RAY_AUTH_MODE="disabled").finish()
        assert facts(run) == reference.facts
    finally:
        filler.kill()
        filler.communicate()


def test_a_sweep_on_a_full_disk_says_so_and_goes_on_when_there_is_room(reference, tmp_path):
    disk, result = tmp_path / "disk", tmp_path / "run"
    if subprocess.run(
        ["unshare", "--mount", "bash", "-c", f"mkdir -p {disk} && mount -t tmpfs tmpfs {disk}"],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("needs the right to mount a memory file system")
    start = reference.copy(tmp_path / "start", without=TRIALS)
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in start.rglob("*") if path.is_file()) + (96 << 10)
    result.mkdir()
    sweep = SweepProcess(
        disk,
        reference.storage,
        prefix=("unshare", "--mount", "bash", "-c", SMALL_DISK, "-", str(size), str(start), str(disk), str(result)),
    )
    said = sweep.finish()
    assert "ended with 2" in said, said[-3000:]
    assert "free some space" in said
    assert "Traceback" not in said
    assert facts(result) == reference.facts
