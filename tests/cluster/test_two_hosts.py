"""A cluster of two hosts, from `ray up` to the report to `ray down`, as docs/cluster.md tells a person to do it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from raydistill.records import RunDirectory

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HEAD, WORKER = "10.78.0.2", "10.78.0.3"
SMALL = (
    "selectors=[uniform]",
    "controls=[popularity]",
    "search.space.keep_ratio={choice: [0.5]}",
    "search.trials=1",
    "confirm.seeds=1",
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]


def missing() -> str | None:
    """Return why the hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    tools = [tool for tool in ("ip", "rsync", "ssh", "unshare", "/usr/sbin/sshd") if shutil.which(tool) is None]
    if tools:
        return f"needs {', '.join(tools)} (openssh-server, rsync, iproute2)"
    probe = subprocess.run(["ip", "netns", "add", "rdtProbe"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"network namespaces are not allowed: {probe.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", "rdtProbe"], check=False)
    return None


class Launcher:
    """The machine from which the cluster is launched: a network namespace with a home of its own.

    Args:
        folder: Where everything is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "cluster.yaml"
        self.home = folder / "launch"
        self.home.mkdir()
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def command(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", "rdtLaunch", *command]

    def run(self, *command: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess:
        """Run a command to its end, output and errors together."""
        return subprocess.run(
            self.command(*command),
            env=self.environment | environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ray(self, *command: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess:
        return self.run("ray", *command, timeout=timeout, **environment)

    def sweep(self, name: str, *overrides: str) -> tuple[str, str]:
        """Submit the smoke sweep through the tunnel; return its status at the end, and what it said."""
        said = " ".join(f"--set '{override}'" for override in overrides)
        entry = f"cd ~/raydistill && exec python -m raydistill.sweep sweeps/smoke.yaml {said}"
        submitted = self.ray("job", "submit", "--no-wait", "--submission-id", name, "--", "bash", "-c", entry)
        assert submitted.returncode == 0, submitted.stdout[-2000:]
        # Waiting in the command that submits ends too early where the tunnel falters.
        wait_for(lambda: self.end(name), 1200, f"end of {name}")
        return self.end(name), self.ray("job", "logs", name).stdout

    def end(self, name: str) -> str:
        """Return how a job ended; empty while it runs, or where the dashboard did not answer."""
        said = self.ray("job", "status", name).stdout
        found = re.search(rf"Job '{name}' (succeeded|failed|was stopped)", said)
        return found.group(1) if found else ""


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    reason = missing()
    if reason:
        pytest.skip(f"two hosts cannot be made here: {reason}")
    # Not pytest's folder: sockets have short paths, and an overlay cannot be above itself.
    folder = Path(tempfile.mkdtemp(prefix="rdt-", dir="/var/tmp"))
    hosts = [str(HERE / "two_hosts.sh"), "up", str(folder)]
    environment = os.environ | {"VENV": sys.prefix}
    try:
        made = subprocess.run(hosts, env=environment, capture_output=True, text=True, timeout=60, check=False)
        if made.returncode:
            pytest.skip(f"two hosts cannot be made here: {made.stderr.strip()[-500:]}")
        launcher = Launcher(folder)
        launcher.file.write_text(yaml.safe_dump(cluster(folder)))
        yield launcher
    finally:
        subprocess.run([hosts[0], "down", str(folder)], check=False, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def cluster(folder: Path) -> dict:
    """Return the shipped file with the values that a person fills in; the project is not downloaded anew."""
    config = yaml.safe_load((ROOT / "clusters" / "cluster.local.yaml").read_text())
    config["provider"] |= {"head_ip": HEAD, "worker_ips": [WORKER]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(folder / "key")}
    config["file_mounts"] = {
        remote: str(ROOT) if local == "." else str(folder / "launch" / ".ray" / "auth_token")
        for remote, local in config["file_mounts"].items()
    }
    config["setup_commands"] = [command for command in config["setup_commands"] if "pip install" not in command]
    for part in ("head", "worker"):
        key = f"{part}_start_ray_commands"
        config[key] = [
            command.replace("ray start", "export GLOO_SOCKET_IFNAME=eth0 PYTHONPATH=~/raydistill; ray start")
            + " --num-cpus=1 --object-store-memory=200000000" * ("ray start" in command)
            for command in config[key]
        ]
    return config


@pytest.fixture(scope="module")
def running(launcher) -> Iterator[Launcher]:
    """Bring the cluster up, with the dashboard's tunnel open."""
    made = launcher.run("bash", "-c", "umask 077 && ray get-auth-token --generate >/dev/null")
    assert made.returncode == 0, made.stdout
    up = launcher.ray("up", "-y", "--no-config-cache", str(launcher.file))
    assert up.returncode == 0, up.stdout[-3000:]
    token = (launcher.home / ".ray" / "auth_token").read_text().strip()
    assert len(token) > 30
    assert token not in up.stdout
    wait_for(lambda: nodes(launcher) == 2, 180, "both hosts in the cluster")
    tunnel = subprocess.Popen(
        launcher.command("ray", "dashboard", str(launcher.file)),
        env=launcher.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        launcher.environment["RAY_ADDRESS"] = "http://127.0.0.1:8265"
        wait_for(lambda: launcher.ray("job", "list").returncode == 0, 60, "the dashboard behind the tunnel")
        yield launcher
    finally:
        del launcher.environment["RAY_ADDRESS"]
        os.killpg(tunnel.pid, 15)
        tunnel.wait(timeout=30)


def nodes(launcher: Launcher) -> int:
    """Return how many hosts the cluster has."""
    code = "import ray; ray.init(log_to_driver=False); open('/mnt/raydistill/nodes', 'w').write(str(len(ray.nodes())))"
    launcher.ray("exec", str(launcher.file), f'python -c "{code}"')
    written = launcher.folder / "shared" / "raydistill" / "nodes"
    return int(written.read_text() or 0) if written.exists() else 0


def wait_for(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {seconds:g} s"
        time.sleep(2)


def test_without_the_token_nobody_gets_in(running):
    for environment in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "f" * 64}):
        refused = running.ray("job", "list", **environment)
        assert refused.returncode != 0
        assert "auth" in refused.stdout.lower().splitlines()[-1], refused.stdout[-500:]


def test_storage_that_is_not_shared_is_refused_before_the_first_trial(running):
    status, said = running.sweep("unshared", *SMALL, "execution.storage=/root/unshared", "execution.workers=2")
    assert status == "failed"
    assert "does not see the run directory" in said, said[-2000:]
    assert "training, evidence" not in said


def test_more_workers_than_there_are_is_refused(running):
    status, said = running.sweep("too-many", *SMALL, "execution.storage=/mnt/raydistill/runs", "execution.workers=3")
    assert status == "failed"
    assert "3 worker(s)" in said, said[-2000:]


def test_a_sweep_with_two_workers_over_two_hosts_gives_its_report(running):
    status, said = running.sweep("smoke", *SMALL, "execution.storage=/mnt/raydistill/runs", "execution.workers=2")
    assert status == "succeeded", said[-4000:]
    fetched = running.folder / "report"
    fetched.mkdir()
    down = running.ray("rsync-down", str(running.file), "/mnt/raydistill/runs/smoke/report/", f"{fetched}/")
    assert down.returncode == 0, down.stdout[-1000:]
    assert "uniform" in (fetched / "index.html").read_text()
    records = [record for _, record in RunDirectory(running.folder / "shared/raydistill/runs/smoke").records()]
    assert sorted(record.name for record in records) == [
        "confirm popularity",
        "confirm uniform keep=0.5 seed=1",
        "search uniform keep=0.5 #0",
    ]
    assert {record.status for record in records} == {"success"}


def test_ray_down_leaves_nothing_running(running):
    down = running.ray("down", "-y", str(running.file))
    assert down.returncode == 0, down.stdout[-2000:]

    def raylets() -> list[str]:
        found = []
        for host in ("rdtHead", "rdtWorker"):
            pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True).stdout
            commands = [Path("/proc", pid, "cmdline") for pid in pids.split()]
            found += [host for path in commands if path.exists() and b"raylet" in path.read_bytes()]
        return found

    wait_for(lambda: not raylets(), 120, "end of Ray on both hosts")
