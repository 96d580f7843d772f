"""Folders of prepared data that are whole or absent, and known to be so."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raydistill.errors import CorruptArtifactError, DataError
from raydistill.records.files import sha256_file, write_json


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``folder`` when the block ends without error.

    Raises:
        DataError: It cannot be written, or the disk is full.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        raise not_written(folder, error) from error
    old = partial.with_suffix(".old")
    try:
        yield partial
        os.chmod(partial, 0o755)
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder, old)
        os.replace(partial, folder)
    except OSError as error:
        raise not_written(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process that makes ``folder`` while the block runs; what a killed one left behind is removed.

    Raises:
        DataError: The place cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder.parent / f".{folder.name}.lock", "w"))
        except OSError as error:
            raise not_written(folder, error) from error
        with contextlib.suppress(OSError):  # some file systems have no locks: then it is as without
            fcntl.flock(file, fcntl.LOCK_EX)
        for path in folder.parent.glob(f".{folder.name}.*.partial"):
            shutil.rmtree(path, ignore_errors=True)
        yield


def seal(folder: Path, content: dict[str, Any]) -> None:
    """Write ``meta.json``, last, with ``content`` and the size and SHA-256 of every other file in ``folder``."""
    files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in sorted(folder.iterdir())}
    write_json(folder / "meta.json", {**content, "files": files})


def read_sealed(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Return what :func:`seal` wrote, after a check that every file is whole.

    Args:
        folder: A folder that was sealed.
        verify: Compare the SHA-256 of each file, and not only its size.

    Raises:
        CorruptArtifactError: ``meta.json`` or a file is missing, cut off or changed.
    """
    mend = "delete the folder; running the same command again makes it anew"
    try:
        meta = json.loads((folder / "meta.json").read_text())
        for name, expected in meta["files"].items():
            path = folder / name
            whole = path.stat().st_size == expected["bytes"] and (not verify or sha256_file(path) == expected["sha256"])
            if not whole:
                raise CorruptArtifactError(f"{name} is cut off or was changed", where=str(path), mend=mend)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(f"prepared data cannot be read: {error!r}", where=str(folder), mend=mend) from error
    return meta


def not_written(path: Path, error: OSError) -> DataError:
    """Return the error for a data folder that cannot be written."""
    return DataError(
        f"cannot write prepared data: {error.strerror or error}",
        where=str(path),
        mend="free some space, or choose a cache folder that may be written; the same command then continues",
    )
