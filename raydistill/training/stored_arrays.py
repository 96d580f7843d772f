"""Arrays in a folder, whole or absent, opened memory-mapped: all processes share them through the page cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from raydistill.errors import CorruptArtifactError
from raydistill.records import atomic_write, sha256_file, write_json

META = "meta.json"


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write each array as ``<name>.npy``, and last ``meta.json`` with their sizes and hashes.

    Raises:
        RunDirectoryError: The folder cannot be written, or the disk is full.
    """
    files = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.save(file, array)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    write_json(folder / META, {"files": files})


def open_arrays(folder: Path, *, verify: bool) -> dict[str, np.ndarray]:
    """Return the arrays of a folder by name, memory-mapped, read-only.

    Args:
        folder: What :func:`write_arrays` wrote.
        verify: Whether to compare the files with their hashes; their sizes are always compared.

    Raises:
        CorruptArtifactError: It is absent, half written or changed.
    """
    try:
        arrays = {}
        for name, expected in json.loads((folder / META).read_text())["files"].items():
            path = folder / name
            if path.stat().st_size != expected["bytes"] or (verify and sha256_file(path) != expected["sha256"]):
                raise CorruptArtifactError(f"{name} of the teacher cache was changed", where=str(path))
            arrays[path.stem] = np.load(path, mmap_mode="r")
        return arrays
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(f"the teacher cache cannot be read: {error}", where=str(folder)) from error
