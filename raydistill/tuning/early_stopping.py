"""Asynchronous successive halving inside one stratum of one arm (Li et al. 2020, ASHA).

A trial is compared, after 1, eta, eta^2, ... epochs, with the earlier trials of its own arm and
keep-ratio only, and goes on where it is among the best 1/eta of them and itself. What it is compared with
is fixed when it starts (the earlier groups of its arm), so who is stopped does not depend on timing.
The epochs saved stay with the arm, which spends them on further trials: budgets stay equal in epochs.
"""

from __future__ import annotations

from collections.abc import Sequence

from raydistill.records import Record, gain


def rungs(grace: int, reduction: int, epochs: int) -> list[int]:
    """Return the epochs after which a trial is compared: grace, grace * reduction, ..., below ``epochs``."""
    result, epoch = [], grace
    while epoch < epochs:
        result.append(epoch)
        epoch *= reduction
    return result


def thresholds(earlier: Sequence[Record], metric: str, *, grace: int, reduction: int, epochs: int) -> dict[int, float]:
    """Return, by rung, the gain that a trial must exceed to go on; rungs with too few rivals are left out.

    Args:
        earlier: Trials of the same arm and stratum that came before.
        metric: Validation metric in their curves.
        grace: First rung.
        reduction: eta; one of this many goes on.
        epochs: Epochs of a whole trial.
    """
    result = {}
    for rung in rungs(grace, reduction, epochs):
        reached = [record for record in earlier if record.epochs >= rung]
        values = sorted((gain(metric, record.curves[rung - 1][metric]) for record in reached), reverse=True)
        survivors = (len(values) + 1) // reduction
        if survivors >= 1:
            result[rung] = values[survivors - 1]
    return result
