"""Where checkpoints of training go: a folder that all nodes see, or a bucket, by pyarrow's file systems."""

from __future__ import annotations

import secrets

import pyarrow
from pyarrow import fs

from raydistill.config import Sweep
from raydistill.errors import UserError
from raydistill.records import RunDirectory


def place_of(sweep: Sweep, run: RunDirectory) -> str:
    """Return where Ray Train keeps the checkpoints of a sweep: a folder, or an address such as ``s3://bucket/name``."""
    named = sweep.execution.checkpoints
    if named is None:
        return str(run.root.resolve() / "ray" / "train")
    place, mark, options = named.partition("?")
    return f"{place.rstrip('/')}/{run.root.name}{mark}{options}"


def check_place(place: str) -> None:
    """Refuse a place that cannot be written and read, before anything is trained.

    Raises:
        UserError: With what is wrong there.
    """
    name, content = f".probe-{secrets.token_hex(8)}", b"raydistill"
    try:
        system, path = fs.FileSystem.from_uri(place)
        system.create_dir(path)
        with system.open_output_stream(f"{path}/{name}") as file:
            file.write(content)
        with system.open_input_stream(f"{path}/{name}") as file:
            found = file.read()
        system.delete_file(f"{path}/{name}")
    except (OSError, pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise UserError(
            f"checkpoints cannot be kept there: {str(error).splitlines()[0]}",
            where=place,
            mend="set execution.checkpoints to a folder or bucket that this machine may write to, or leave it out",
        ) from error
    if found != content:
        raise UserError("what was written there is not what is read back", where=place, mend="choose another place")


def remove(place: str, name: str) -> None:
    """Delete the checkpoints of a run that has ended, where there are any."""
    system, path = fs.FileSystem.from_uri(place)
    if system.get_file_info(f"{path}/{name}").type == fs.FileType.Directory:
        system.delete_dir(f"{path}/{name}")
