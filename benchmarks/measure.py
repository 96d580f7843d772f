"""How everything here is measured: in turns, in processor seconds, with the memory of a forked process."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

from raydistill.metrics import PeakMemory

Work = Callable[[], Any]


def in_turns(works: dict[str, Work], rounds: int, *, warm_up: bool = True) -> dict[str, float]:
    """Return the least processor seconds of each work over some rounds, all works taking turns in each.

    Processor seconds of this process are wall seconds where nothing else runs and one thread is used; unlike those
    they do not grow when the machine is shared.
    """
    best = dict.fromkeys(works, float("inf"))
    for number in range(rounds + warm_up):
        for name, work in works.items():
            started = time.process_time()
            work()
            if number >= warm_up:
                best[name] = min(best[name], time.process_time() - started)
    return best


def extra_memory(work: Work) -> int:
    """Return the bytes by which the peak resident memory of a process grows while it works, in a fork of this one.

    0 where the work does not fit and the fork is killed is told apart: then -1.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(work, sender))
    child.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        result = -1
    child.join()
    return result


def _measure(work: Work, sender: Any) -> None:
    with PeakMemory() as before:
        pass
    with PeakMemory() as during:
        work()
    sender.send(during.bytes - before.bytes)


def row(area: str, work: str, seconds: float | None, against: float | None = None, **further: Any) -> dict[str, Any]:
    """Return one row of the table.

    Args:
        area: What is compared.
        work: Who does it.
        seconds: Processor seconds; None where it was skipped.
        against: Seconds of the row that this one is set against.
        further: More columns, such as ``memory`` (bytes) or ``note``.
    """
    ratio = None if seconds is None or not against else seconds / against
    return {"area": area, "work": work, "seconds": seconds, "ratio": ratio, **further}
