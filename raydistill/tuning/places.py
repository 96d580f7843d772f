"""Folders and buckets that every node of a cluster must see: a probe file tells whether it does."""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow
from pyarrow import fs

from raydistill.errors import UserError

FAILURES = (OSError, pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError)
"""What pyarrow raises of a place that is not there, may not be used, or is of a kind that it does not know."""


@dataclass(frozen=True)
class Place:
    """Where a sweep reads and writes, on all nodes.

    Attributes:
        name: What it is, for a person.
        address: A folder, or an address that pyarrow knows.
        mend: What to do where a node does not see it.
        is_written: Whether all nodes write there, and not the first alone.
    """

    name: str
    address: str
    mend: str
    is_written: bool = True


class Problem(NamedTuple):
    """What a machine cannot do in a place.

    Attributes:
        what: What it does not or may not do, between the machine's name and the place's.
        why: What the file system says.
        mend: What to do, where it is not what the place says.
    """

    what: str
    why: str
    mend: str | None = None


PROBE = ".probe-"
"""How the names of probes begin."""

ROOM = "free some space there; the same command then continues"
"""What to do where a place is full."""

SHARED = "a folder that all nodes share, such as /mnt/raydistill/runs"


def run_directory(root: str) -> Place:
    """Return the run directory as a place that all nodes must see and write to."""
    return Place("the run directory", root, f"set execution.storage, or --run-dir, to {SHARED}")


def leave_probe(address: str) -> str:
    """Write a file of a random name, with that name as its content, and return the name; whole, or not at all."""
    name = f"{PROBE}{secrets.token_hex(8)}"
    system, path = fs.FileSystem.from_uri(address)
    system.create_dir(path)
    try:
        with system.open_output_stream(f"{path}/{name}") as file:
            file.write(name.encode())
    except FAILURES:
        with contextlib.suppress(*FAILURES):
            system.delete_file(f"{path}/{name}")
        raise
    return name


def read_probe(address: str, name: str) -> str:
    """Return what is in a probe file."""
    system, path = fs.FileSystem.from_uri(address)
    with system.open_input_stream(f"{path}/{name}") as file:
        return file.read().decode(errors="replace")


def remove_probe(address: str, name: str) -> None:
    """Delete a probe file."""
    system, path = fs.FileSystem.from_uri(address)
    system.delete_file(f"{path}/{name}")


def remove_probes(address: str) -> None:
    """Delete the probes in a place that is one sweep's alone: a sweep that was killed has left its own."""
    system, path = fs.FileSystem.from_uri(address)
    for entry in system.get_file_info(fs.FileSelector(path, allow_not_found=True)):
        if entry.base_name.startswith(PROBE):
            system.delete_file(entry.path)


@contextlib.contextmanager
def probed(place: Place) -> Iterator[str]:
    """Leave a probe in a place while the block runs, for other machines to look for, and yield its name.

    Raises:
        UserError: It cannot be left there.
    """
    try:
        probe = leave_probe(place.address)
    except FAILURES as error:
        what = f"a file cannot be left for the nodes in {place.name}: {reason(error)}"
        raise UserError(what, where=place.address, mend=room_or(place.mend, error)) from error
    try:
        yield probe
    finally:
        with contextlib.suppress(*FAILURES):
            remove_probe(place.address, probe)


def problem_with(place: Place, probe: str) -> Problem | None:
    """Return what this machine cannot do in a place where another one has left a probe; None if all is well.

    It must read that file, and, where it is to write, write and delete one of its own.
    """
    try:
        if read_probe(place.address, probe) != probe:
            return Problem("does not see", "a file that was written there has another content")
    except FAILURES as error:
        return Problem("does not see", reason(error))
    return problem_in_writing(place) if place.is_written else None


def problem_in_writing(place: Place) -> Problem | None:
    """Return what keeps this machine from writing and deleting a file in a place; None where it can."""
    try:
        remove_probe(place.address, leave_probe(place.address))
    except FAILURES as error:
        if is_full(error):
            return Problem("finds no room in", reason(error), ROOM)
        return Problem("may not write to", reason(error))
    return None


def is_full(error: Exception) -> bool:
    """Return whether an error says that a place has no room left, and not that it may not be used."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def room_or(mend: str, error: Exception) -> str:
    """Return what to do about a place that cannot be written: ``mend``, unless it is only full."""
    return ROOM if is_full(error) else mend


def reason(error: Exception) -> str:
    """Return the first line of an error, which says enough."""
    return (str(error).splitlines() or [type(error).__name__])[0]
