"""Rows that several workers compute, put into one folder of arrays, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from raydistill.errors import ModelError
from raydistill.records import atomic_write
from raydistill.training.context import RunContext
from raydistill.training.stored_arrays import blank_array, seal_arrays, write_array

Batches = Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]]
"""Slots ``[batch]``, and by name the rows ``[batch, dim]`` of each column."""


def write_rows(folder: Path, batches: Batches, n_slots: int, context: RunContext, **further: np.ndarray) -> None:
    """Write what all workers compute to ``folder``, one array a column, row i that of slot i; all call it together.

    Nobody holds more than a batch. Other workers' rows reach the first one, which writes, through files: a collective
    would give all rows to each.

    Args:
        folder: Seen by all workers.
        batches: Of this worker, computed as they are asked for; together the workers have every slot once.
        n_slots: Number of slots.
        context: Where this runs.
        further: Arrays that go beside the columns.

    Raises:
        ModelError: A value is not finite, on whichever worker.
        ValueError: The batches do not have every slot.
        RunDirectoryError: The folder cannot be written, or the disk is full.
    """
    batches = _finite(batches)
    shares = [folder / f"rows-{rank}.part" for rank in range(context.world_size)]
    if context.world_size > 1:
        _write_share(shares[context.rank], batches, context)
        batches = (batch for share in shares for batch in _read_share(share))
    if context.is_first:
        names = _write_columns(folder, batches, n_slots)
        for name, array in further.items():
            write_array(folder, name, array)
        seal_arrays(folder, [*names, *further])
        for share in shares:
            share.unlink(missing_ok=True)
    context.barrier()


def _finite(batches: Batches) -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]:
    for slots, rows in batches:
        for name, values in rows.items():
            if not np.isfinite(values).all():
                raise ModelError(
                    f"not all of the teacher's outputs are finite: {name} in {values.dtype}",
                    mend="look for exploding activations: a lower learning rate, a final layer norm, or float32",
                )
        yield slots, rows


def _write_columns(folder: Path, batches: Batches, n_slots: int) -> list[str]:
    """Write the arrays and return their names."""
    arrays: dict[str, np.memmap] = {}
    n_written = 0
    with ExitStack() as stack:
        for slots, rows in batches:
            for name, values in rows.items():
                if name not in arrays:
                    temporary = stack.enter_context(atomic_write(folder / f"{name}.npy"))
                    arrays[name] = blank_array(temporary, (n_slots, *values.shape[1:]), values.dtype)
                arrays[name][slots] = values
            n_written += len(slots)
        if n_written != n_slots:
            raise ValueError(f"{n_written} rows were computed for {n_slots} slots")
        for array in arrays.values():
            array.flush()
    return list(arrays)


def _write_share(path: Path, batches: Batches, context: RunContext) -> None:
    """Write a worker's batches into one file, and tell all workers where an output is not finite."""
    problem = None
    try:
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            for slots, rows in batches:
                for array in (slots, np.array(list(rows)), *rows.values()):
                    np.save(file, array)
    except ModelError as error:
        problem = error
    for found in context.gather(problem):
        if found is not None:
            raise found


def _read_share(path: Path) -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]:
    with open(path, "rb") as file:
        while file.peek(1):
            slots, names = np.load(file), np.load(file)
            yield slots, {str(name): np.load(file) for name in names}
