"""Where checkpoints of training go: a folder that all nodes see, or a bucket, by pyarrow's file systems."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from pyarrow import fs

from raydistill.config import Sweep
from raydistill.errors import CorruptArtifactError, UserError
from raydistill.records import RunDirectory, write_json
from raydistill.tuning.places import (
    FAILURES,
    Place,
    leave_probe,
    probed,
    problem_with,
    read_probe,
    reason,
    remove_probe,
    remove_probes,
    room_or,
)
from raydistill.tuning.refusals import UnseenError

NOTED = "checkpoints.json"
"""File of a run directory with the name of its checkpoints elsewhere, and every place that they were in."""


def open_place(sweep: Sweep, run: RunDirectory) -> str:
    """Return where Ray Train keeps the checkpoints of a sweep, noted in the run directory for :func:`place_of`.

    Elsewhere the name is random besides: two run directories may have the same name, and one that is begun anew must
    not continue from what it had before.
    """
    named = sweep.execution.checkpoints
    if named is None:
        return place_of(sweep, run)
    noted = _noted(run) or {"name": f"{run.root.name}-{secrets.token_hex(4)}", "places": []}
    place = _under(named, noted["name"])
    if place not in noted["places"]:
        write_json(run.root / NOTED, noted | {"places": [*noted["places"], place]})
    return place


def place_of(sweep: Sweep, run: RunDirectory) -> str:
    """Return where the checkpoints of a sweep that is under way are: a folder, or an address like ``s3://bucket/name``.

    Raises:
        CorruptArtifactError: They are elsewhere, and the run directory does not say under which name.
    """
    named = sweep.execution.checkpoints
    if named is None:
        return str(run.root.resolve() / "ray" / "train")
    noted = _noted(run)
    if noted is None:
        raise CorruptArtifactError("the name of the checkpoints is not noted", where=str(run.root / NOTED))
    return _under(named, noted["name"])


def _noted(run: RunDirectory) -> dict[str, Any] | None:
    try:
        content = json.loads((run.root / NOTED).read_text())
        return {"name": str(content["name"]), "places": list(content["places"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _under(named: str, name: str) -> str:
    place, mark, options = named.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


def check_place(place: str) -> None:
    """Refuse a place that cannot be written and read, before anything is trained.

    Raises:
        UserError: With what is wrong there.
    """
    try:
        name = leave_probe(place)
        found = read_probe(place, name)
        remove_probe(place, name)
    except FAILURES as error:
        raise UserError(
            f"checkpoints cannot be kept there: {reason(error)}",
            where=place,
            mend=room_or(
                "set execution.checkpoints to a folder or bucket that this machine may write to, or leave it out", error
            ),
        ) from error
    if found != name:
        raise UserError("what was written there is not what is read back", where=place, mend="choose another place")


def shared_place(place: str) -> Place:
    """Return the place of the checkpoints as one that all nodes must see."""
    return Place(
        "the place of the checkpoints",
        place,
        "let every node see it and write there, for which a bucket asks a right of the workers' machines "
        "(docs/cluster.md), or set execution.checkpoints to a place where all do; the same command then continues",
    )


@contextlib.contextmanager
def probed_place(sweep: Sweep, run: RunDirectory) -> Iterator[str]:
    """Open the place of a sweep's checkpoints, try it, and leave a probe there for :func:`check_seen` meanwhile.

    Raises:
        UserError: It cannot be written and read here.
    """
    place = open_place(sweep, run)
    check_place(place)
    remove_probes(place)
    with probed(shared_place(place)) as probe:
        yield probe


@cache
def check_seen(place: str, probe: str) -> None:
    """Refuse to train on a machine that does not see the checkpoints of the others: it may have joined late.

    Ray itself tells after the first epoch, as an error of the training, and of the first worker alone. Looked at once
    a process.

    Args:
        place: Where the checkpoints of the sweep go.
        probe: What :func:`probed_place` has left there.

    Raises:
        UnseenError: With what is wrong there.
    """
    shared = shared_place(place)
    problem = problem_with(shared, probe)
    if problem:
        raise UnseenError.of(socket.gethostname(), shared, problem)


def remove(place: str, name: str) -> None:
    """Delete the checkpoints of a run that has ended, where there are any."""
    system, path = fs.FileSystem.from_uri(place)
    _remove(system, f"{path}/{name}")


def _remove(system: fs.FileSystem, path: str) -> None:
    if system.get_file_info(path).type == fs.FileType.Directory:
        system.delete_dir(path)


def remove_all(run: RunDirectory) -> None:
    """Delete every checkpoint that a run directory has elsewhere; what cannot be deleted is named.

    A run directory may come from somebody else, so a place that does not look like one of ours is left alone.
    """
    noted = _noted(run) or {"name": "", "places": []}
    for place in noted["places"]:
        try:
            system, path = fs.FileSystem.from_uri(place)
            if not _is_ours(system, path, noted["name"]):
                raise OSError("it holds something else")
            _remove(system, path)
        except FAILURES as error:
            print(f"WARNING: old checkpoints stay in {place}: {reason(error)}", file=sys.stderr)


def _is_ours(system: fs.FileSystem, path: str, name: str) -> bool:
    """Return whether a folder has such a name as :func:`open_place` gives, and nothing but runs of Ray Train in it."""
    if path.rpartition("/")[2] != name or not re.fullmatch(r"[^/]+-[0-9a-f]{8}", name):
        return False
    entries = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return all(re.match(r"teacher-|trial-|\.probe-|\.validate_storage_marker", entry.base_name) for entry in entries)
