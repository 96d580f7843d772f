"""Rows that several workers have computed, put together in one folder of arrays."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from raydistill.errors import ModelError
from raydistill.training.context import RunContext
from raydistill.training.stored_arrays import open_arrays, write_arrays

SLOTS = "slots"


def write_rows(
    folder: Path,
    slots: Sequence[np.ndarray],
    columns: Mapping[str, Sequence[np.ndarray]],
    context: RunContext,
    **further: np.ndarray,
) -> None:
    """Write what all workers computed to ``folder``, one array a column, row i that of slot i; all call it together.

    Other workers' rows reach the first one, which writes, through files: a collective would give all rows to each.

    Args:
        folder: Seen by all workers.
        slots: Of this worker's rows, batch by batch; together the workers have every slot once.
        columns: Name and rows ``[batch, dim]`` of each column.
        context: Where this runs.
        further: Arrays that go beside the columns.

    Raises:
        ModelError: A value is not finite, on whichever worker.
    """
    parts = {SLOTS: slots, **columns} if slots else {}
    own = {name: np.concatenate(values) for name, values in parts.items()}
    problem = next((f"{name} in {own[name].dtype}" for name in own if not np.isfinite(own[name]).all()), None)
    found = context.gather((bool(own), problem))
    if problem := next((problem for _, problem in found if problem), None):
        raise ModelError(
            f"not all of the teacher's outputs are finite: {problem}",
            mend="look for exploding activations: a lower learning rate, a final layer norm, or float32",
        )
    files = [folder / f"rows-{rank}" for rank, (has_rows, _) in enumerate(found) if has_rows]
    if context.world_size > 1 and own:
        write_arrays(folder / f"rows-{context.rank}", own)
    context.barrier()
    if context.is_first:
        shares = [own] if context.world_size == 1 else [open_arrays(file, verify=False) for file in files]
        write_arrays(folder, {name: _in_order(shares, name) for name in columns} | further)
        for file in files if context.world_size > 1 else ():
            shutil.rmtree(file)
    context.barrier()


def _in_order(shares: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    like = shares[0][name]
    result = np.empty((sum(len(share[SLOTS]) for share in shares), *like.shape[1:]), dtype=like.dtype)
    for share in shares:
        result[share[SLOTS]] = share[name]
    return result
