"""What is found out before the first trial, and not after an hour: token, room, GPUs, versions, shared storage."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydistill.config import Sweep
from raydistill.errors import UserError
from raydistill.records import RunDirectory
from raydistill.tuning import checkpoints
from raydistill.tuning.capacity import Workers, alive_nodes, can_grow, room_for, shortage
from raydistill.tuning.places import SHARED, Place, Problem, probed, problem_with, run_directory
from raydistill.tuning.refusals import OtherCodeError, UnseenError
from raydistill.tuning.sharded import teacher_workers
from raydistill.tuning.sharded_trial import trial_workers
from raydistill.tuning.trials import concurrency
from raydistill.tuning.versions import differences, versions

WAIT_S = 900.0
"""Seconds that an autoscaler has for bringing what is missing: machines take minutes to start."""

ANSWER_S = 120.0
"""Seconds that a node has for its answer; a new node imports torch first."""


def check_token(sweep: Sweep) -> None:
    """Refuse a token that others can read, or that is missing where a cluster asks for one.

    A local Ray makes a token that every user of the machine can read; it finds one here that only its owner can.

    Raises:
        UserError: The token is missing, unreadable or open.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode == "disabled" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    mend = "(umask 077 && ray get-auth-token --generate >/dev/null) makes one; the cluster must have the same"
    joins = sweep.execution.address not in ("auto", "local") or bool(os.environ.get("RAY_ADDRESS"))
    try:
        content, bits = path.read_text(), path.stat().st_mode & 0o077
    except FileNotFoundError as error:
        if named or (joins and mode == "token"):
            raise UserError("Ray asks for a token, and there is none", where=str(path), mend=mend) from error
        if not joins:
            _make_token(path)
        return
    except OSError as error:
        raise UserError(f"Ray's token cannot be read: {error.strerror}", where=str(path), mend=mend) from error
    if not content.strip():
        raise UserError("Ray's token is empty", where=str(path), mend=mend)
    if bits and (joins or mode == "token"):
        raise UserError(
            f"others may read Ray's token (mode {path.stat().st_mode & 0o777:04o}), and with it run any command",
            where=str(path),
            mend=f"chmod 600 {path}; make a new one if the machine has other users",
        )
    if bits:
        path.chmod(0o600)


def _make_token(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        if isinstance(error, FileExistsError) and path.exists():  # another sweep has made it meanwhile
            return
        raise UserError(
            f"no token can be made for Ray there: {error.strerror}",
            where=str(path),
            mend="set HOME to a folder that you may write to, or RAY_AUTH_TOKEN_PATH to a file with a token",
        ) from error
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))


def check_cluster(
    sweep: Sweep, run: RunDirectory, cache: Path, *, notify: Callable[[str], None] = print, wait_s: float = WAIT_S
) -> None:
    """Refuse a cluster that cannot run the sweep: too small, of other versions, or without shared storage.

    Args:
        sweep: The sweep.
        run: Its run directory, which every node must see.
        cache: Folder of prepared data, which every node must see as well.
        notify: Told what is being waited for.
        wait_s: Seconds that an autoscaler has for bringing what is missing.

    Raises:
        UserError: With what there is and what is missing.
    """
    execution = sweep.execution
    for workers_of, keys in (
        (teacher_workers, "execution.workers, execution.gpus_per_worker"),
        (trial_workers, "execution.workers, execution.gpus_per_trial, execution.cpus_per_trial"),
    ):
        _wait_for_room(workers_of(sweep), keys, notify, wait_s)
    fit = concurrency(sweep, trial_workers(sweep))
    if execution.concurrency not in ("auto", fit):
        notify(
            f"execution.concurrency is {execution.concurrency}, and {fit} such trial(s) fit at once: so many will run"
        )
    nodes = alive_nodes()
    gpus = sum(node["Resources"].get("GPU", 0.0) for node in nodes)
    keys = ("gpus_per_worker",) if execution.workers > 1 else ("gpus_per_worker", "gpus_per_trial")
    for key in keys if gpus else ():
        if not getattr(execution, key):
            notify(f"there are {gpus:g} GPUs, and execution.{key} is 0: {_ON_CPUS[key]} on CPUs")
    if len(nodes) > 1 or not _is_here(nodes[0]):
        _check_nodes(nodes, places_of(sweep, run, cache))


def _wait_for_room(workers: Workers, keys: str, notify: Callable[[str], None], wait_s: float) -> None:
    deadline, said = time.monotonic() + wait_s, False
    try:
        while True:
            nodes = [node["Resources"] for node in alive_nodes()]
            if room_for(workers, nodes) >= workers.number:
                return
            if not can_grow() or time.monotonic() > deadline:
                raise UserError(_too_small(workers, nodes, waited=said), where=keys, mend=_mend(workers))
            if not said:
                notify(f"waiting for the autoscaler: {_too_small(workers, nodes, waited=False)}")
                request_resources(bundles=[_bundle(workers)] * workers.number)
                said = True
            time.sleep(min(5.0, wait_s / 10))
    finally:
        if said:  # a request stands until it is taken back: these machines would never be ended as idle
            request_resources(bundles=[])


def _too_small(workers: Workers, nodes: Sequence[Mapping[str, float]], *, waited: bool) -> str:
    return shortage(workers, nodes) + (", and the autoscaler has brought no more in time" if waited else "")


def _bundle(workers: Workers) -> dict[str, int]:
    """Return one worker's needs in whole units, as the autoscaler takes them."""
    needs = {"CPU": workers.cpus, "GPU": workers.gpus}
    return {name: max(1, round(value)) for name, value in needs.items() if value}


def _mend(workers: Workers) -> str:
    if workers.gpus and not ray.cluster_resources().get("GPU"):
        return (
            "set execution.gpus_per_worker and gpus_per_trial to 0, or submit the sweep to a cluster with GPUs "
            "(`ray job submit`)"
        )
    return "ask for less, or submit the sweep to a larger cluster (`ray job submit`; max_workers in cluster.yaml)"


_ON_CPUS = {"gpus_per_worker": "the teacher is trained", "gpus_per_trial": "trials run"}


@dataclass(frozen=True)
class NodeReport:
    """What a node is and sees.

    Attributes:
        host: Its name.
        versions: Of raydistill (with a hash of its code), Ray, Python and torch.
        problems: What the node cannot do, by the address of the place.
    """

    host: str
    versions: Mapping[str, str]
    problems: Mapping[str, Problem]


def places_of(sweep: Sweep, run: RunDirectory, cache: Path) -> list[Place]:
    """Return every place that all nodes must see."""
    places = [
        run_directory(str(run.root)),
        Place(
            "the prepared data, which lie under execution.storage",
            str(cache),
            f"set execution.storage to {SHARED}; --run-dir moves the results alone",
            is_written=False,
        ),
    ]
    if sweep.execution.checkpoints is not None:
        places.append(checkpoints.shared_place(checkpoints.place_of(sweep, run)))
    return places


def check_reports(reports: Sequence[NodeReport], own: Mapping[str, str], places: Sequence[Place]) -> None:
    """Compare what the nodes say with what is true where the sweep runs.

    Args:
        reports: What each node says.
        own: Versions here.
        places: What all must see.

    Raises:
        OtherCodeError: A node has another version.
        UnseenError: A node does not see a place, may not write there, or finds no room.
    """
    for report in reports:
        other = differences(report.versions, own)
        if other:
            raise OtherCodeError.of(report.host, other)
        for place in places:
            if place.address in report.problems:
                raise UnseenError.of(report.host, place, report.problems[place.address])


def _check_nodes(nodes: Sequence[Mapping], places: Sequence[Place]) -> None:
    """Let every node say what it is, and whether it sees the places."""
    look = ray.remote(num_cpus=0, max_retries=1)(look_at)
    with _probes(places) as probes:
        asked = [
            (
                node["NodeManagerHostname"],
                look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                    probes
                ),
            )
            for node in nodes
        ]
        check_reports([_answer(host, reference) for host, reference in asked], versions(), places)


@contextlib.contextmanager
def _probes(places: Sequence[Place]) -> Iterator[list[tuple[Place, str]]]:
    """Leave a probe file in each place while the block runs."""
    with contextlib.ExitStack() as left:
        yield [(place, left.enter_context(probed(place))) for place in places]


def _answer(host: str, reference: ray.ObjectRef) -> NodeReport:
    try:
        return ray.get(reference, timeout=ANSWER_S)
    except ray.exceptions.GetTimeoutError as error:
        raise UserError(
            f"node {host} has not answered in {ANSWER_S:g} s", where=host, mend="look at it with `ray status`"
        ) from error
    except ray.exceptions.RayError as error:
        raise UserError(
            f"node {host} cannot run raydistill: {str(error).strip().splitlines()[-1]}",
            where=host,
            mend="install it there with the same Python: pip install -c constraints.txt -e .",
        ) from error


def look_at(probes: Sequence[tuple[Place, str]]) -> NodeReport:
    """Return what the node that this runs on is, and what is wrong there with the places in which a probe was left."""
    found = {place.address: problem_with(place, probe) for place, probe in probes}
    return NodeReport(socket.gethostname(), versions(), {address: what for address, what in found.items() if what})


def _is_here(node: Mapping) -> bool:
    return node["NodeID"] == ray.get_runtime_context().get_node_id()
