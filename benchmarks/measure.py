"""How everything here is measured: in turns, in processor seconds, with the memory of a forked process."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from raydistill.metrics import PeakMemory

Call = Callable[[], Any]


@dataclass(frozen=True)
class Work:
    """What takes turns with other works.

    Attributes:
        call: One turn.
        share: How much of the whole a turn does, by which its seconds are divided: below 1 for a loop that is too slow
            to be run whole, above 1 for a step that is run several times.
        first_steps: A beginning that warms up as well as a whole turn would; None where a turn is short.
    """

    call: Call
    share: float = 1.0
    first_steps: Call | None = None

    @property
    def note(self) -> str:
        """What the table says of a loop that was not run whole."""
        return f"from {self.share:.1%} of the sequences" if self.share < 1 else ""


@dataclass(frozen=True)
class Once:
    """What one execution in a process of its own took.

    Attributes:
        seconds: Processor seconds; None where the process was killed, as for want of memory.
        extra: Bytes by which the peak of its resident memory grew; -1 where it was killed.
        peak: That peak, of the whole process.
    """

    seconds: float | None = None
    extra: int = -1
    peak: int = -1


def process_seconds() -> float:
    """Return the processor seconds of this process.

    They are wall seconds where nothing else runs and one thread is used; unlike those they do not grow when the machine
    is shared.
    """
    return time.process_time()


def device_seconds() -> float:
    """Return the clock's seconds at a moment when the accelerator has nothing to do."""
    torch.cuda.synchronize()
    return time.perf_counter()


def in_turns(
    works: Mapping[str, Work], rounds: int, *, clock: Callable[[], float] = process_seconds
) -> dict[str, float]:
    """Return the least seconds of each work over some rounds, all works warmed up and taking turns in each.

    Args:
        works: By name.
        rounds: How often each takes its turn.
        clock: What is read before and after a turn.
    """
    for work in works.values():
        (work.first_steps or work.call)()
    best = dict.fromkeys(works, float("inf"))
    gc.collect()
    gc.freeze()  # transformers' Trainer ends with a collection over all that was imported, which a share would multiply
    for _ in range(rounds):
        for name, work in works.items():
            started = clock()
            work.call()
            best[name] = min(best[name], (clock() - started) / work.share)
    gc.unfreeze()
    return best


def once(call: Call) -> Once:
    """Return time and memory of one execution, in a fork of this process and without warm-up."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(call, sender))
    child.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        result = Once()
    child.join()
    return result


def extra_memory(work: Work) -> int:
    """Return the bytes that a turn of a work needs beyond those that the process has; -1 where it is killed.

    Of a loop that is not run whole the first steps say it, for every step needs about the same.
    """
    in_part = work.share < 1 and work.first_steps is not None
    return once(work.first_steps if in_part else work.call).extra


def _measure(call: Call, sender: Any) -> None:
    torch.set_num_threads(1)  # a fork has none of the threads that its parent's would wait for
    with PeakMemory() as before:
        pass
    started = time.process_time()
    with PeakMemory() as during:
        call()
    sender.send(Once(time.process_time() - started, during.bytes - before.bytes, during.bytes))


def row(area: str, work: str, seconds: float | None, against: float | None = None, **further: Any) -> dict[str, Any]:
    """Return one row of the table.

    Args:
        area: What is compared.
        work: Who does it.
        seconds: Processor seconds; None where there are none, and ``note`` begins with "skipped" where it was not run.
        against: Seconds of the row that this one is set against.
        further: More columns: ``memory`` (bytes beyond those that the process had), ``peak`` (bytes of the whole
            process), ``note``, or a figure for the JSON file alone.
    """
    ratio = None if seconds is None or not against else seconds / against
    return {"area": area, "work": work, "seconds": seconds, "ratio": ratio, **further}
