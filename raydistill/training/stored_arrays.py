"""Arrays in a folder, whole or absent, opened memory-mapped: all processes share them through the page cache."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
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
    for name, array in arrays.items():
        write_array(folder, name, array)
    seal_arrays(folder, arrays)


def write_array(folder: Path, name: str, array: np.ndarray) -> None:
    """Write one array as ``<name>.npy``, to be counted in by :func:`seal_arrays`."""
    with atomic_write(folder / f"{name}.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def blank_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """Return a new ``.npy`` file of zeros, mapped, with its room on the disk taken.

    Without that, a disk that fills up while rows are written would end the process by a signal, and not by an error.

    Raises:
        OSError: The disk is full.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not everywhere
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def seal_arrays(folder: Path, names: Iterable[str]) -> None:
    """Write ``meta.json``, by which the named arrays of a folder are known to be whole."""
    paths = [folder / f"{name}.npy" for name in names]
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in paths}
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
