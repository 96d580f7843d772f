"""A small sweep as a process of its own, to be killed, starved and lied to."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from raydistill.records import Record, RunDirectory

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = (
    "selectors=[uniform, {name: random, draws: 1}]",
    "controls=[teacher, popularity]",
    "search.space.keep_ratio={choice: [0.5]}",
    "teacher.epochs=12",
    "training.epochs=12",
    "confirm.seeds=2",
    "execution.dashboard=false",
    "execution.trackers=[]",
)
# The report is another program, which takes longer than all trials and is tested elsewhere.
DRIVER = """
import sys
from raydistill.sweep import main
from raydistill.tuning.job import Job
Job._conclude = lambda self: 0
sys.exit(main(sys.argv[1:]))
"""
LIMIT_S = 900
STARTED: list[SweepProcess] = []
"""Sweeps of the test that runs."""
OWN_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's processes are nice to others by default, and starve on a machine that others use.
    "RAY_worker_niceness": "0",
}


class SweepProcess:
    """A sweep that runs in a process of its own.

    Args:
        run_dir: Its run directory.
        cache: Storage place, whose prepared data all sweeps share.
        overrides: Further overrides.
        prefix: Command that the sweep is run under.
        environment: Further variables.
    """

    def __init__(
        self, run_dir: Path, cache: Path, *overrides: str, prefix: tuple[str, ...] = (), **environment: str
    ) -> None:
        self.run = RunDirectory(run_dir)
        self.log = run_dir.with_suffix(".log")
        settings = (*OVERRIDES, f"execution.storage={cache}", "execution.address=local", *overrides)
        command = [
            *prefix,
            sys.executable,
            "-c",
            DRIVER,
            str(ROOT / "sweeps" / "smoke.yaml"),
            "--run-dir",
            str(run_dir),
        ]
        for override in settings:
            command += ["--set", override]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=inherited | OWN_ENVIRONMENT | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        STARTED.append(self)

    def finish(self, code: int = 0) -> str:
        """Wait for the end, expect an exit code, and return what was said."""
        self.process.wait(timeout=LIMIT_S)
        said = self.log.read_text()
        assert self.process.returncode == code, f"ended with {self.process.returncode}: {said[-4000:]}"
        return said

    def hold_a_trial(self, raylet: int | None = None) -> psutil.Process:
        """Stop a process in the middle of an epoch, as if that took for ever; ``resume`` lets it go on.

        Args:
            raylet: Process of the node that it is to be on; any where None.
        """

        def stop() -> psutil.Process | None:
            for process in workers("DistillTrainable search"):
                if raylet is not None and process.ppid() != raylet:
                    continue
                process.suspend()
                if process in workers("DistillTrainable search"):  # and not past it meanwhile
                    return process
                process.resume()
            return None

        return self.wait_for(stop)

    def kill_when(self, condition: Callable[[], Any]) -> Any:
        """Kill the driver, as kill -9 does, as soon as a condition holds, and return its value; its Ray ends too."""
        value = self.wait_for(condition)
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=30)
        psutil.wait_procs(family, timeout=60)
        return value

    def wait_for(self, condition: Callable[[], Any], waiting_for: Any = None) -> Any:
        """Return the first true value of a condition, looking often: trials last a second.

        ``waiting_for`` is shown where the sweep ends before.
        """
        deadline = time.monotonic() + LIMIT_S
        while True:
            value = condition()
            if value:
                return value
            assert self.process.poll() is None, f"ended too early {waiting_for or ''}: {self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.02)

    def end(self) -> None:
        """End the sweep, if a test that failed has left it running."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=30)

    def files(self, pattern: str) -> list[Path]:
        return sorted(self.run.root.glob(pattern))

    def rows_to_continue_from(self) -> list[dict[str, Any]]:
        """Return the epochs in the newest checkpoint of the teacher that Ray has noted; none where there is none yet.

        With the seconds that each took: an epoch that is trained again has others.
        """
        for snapshot in self.files("ray/train/teacher-*/checkpoint_manager_snapshot.json"):
            with contextlib.suppress(FileNotFoundError):  # Ray deletes old ones
                noted = re.findall(r"checkpoint_[0-9][0-9_.-]+", snapshot.read_text())
                if noted:
                    content = json.loads((snapshot.parent / max(noted) / "state.json").read_text())
                    return content["state"]["curves"]
        return []

    def teachers_rows(self) -> list[dict[str, Any]]:
        """Return the epochs of the teacher that is there."""
        (history,) = self.files("teacher/*/history.json")
        return json.loads(history.read_text())["curves"]

    def phases(self, phase: str) -> list[Record]:
        """Return the whole records of a phase that are there now."""
        return [record for _, record in self.run.records() if isinstance(record, Record) and record.phase == phase]


def workers(name: str = "") -> list[psutil.Process]:
    """Return the Ray processes of this test, a sweep's or a cluster's, whose title begins with a name."""
    return [process for process, title in titles() if title.startswith(f"ray::{name}")]


def titles() -> list[tuple[psutil.Process, str]]:
    """Return the processes that this one has started, and those that they have, with their titles."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found.append((process, " ".join(process.cmdline()[:1])))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def facts(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return what every record of a run directory says, by name, but for times and memory.

    Nor which of two trials that are the same computation has done it: two that run at once both do.
    """
    found = {}
    for _, record in RunDirectory(run_dir).records():
        assert isinstance(record, Record), record
        content = dataclasses.asdict(record)
        del content["started"], content["finished"], content["cost"], content["same_as"]
        for row in content["curves"]:
            del row["seconds"], row["targets_per_second"]
        assert record.name not in found
        found[record.name] = content
    return found


@dataclasses.dataclass(frozen=True)
class Reference:
    """A sweep that nothing has disturbed."""

    root: Path
    storage: Path
    facts: dict[str, dict[str, Any]]

    def copy(self, to: Path, *, without: tuple[str, ...] = ()) -> Path:
        """Copy the run directory, without some of its folders; Ray's own state is never copied."""
        shutil.copytree(self.root, to, ignore=shutil.ignore_patterns("ray", *without))
        return to
