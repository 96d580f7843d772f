"""How works on a GPU are measured: in turns, by the clock, the device idle before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.measure import Work, device_seconds, in_turns

DEVICE = torch.device("cuda", 0)

Call = Callable[[], Any]


def timed(works: Mapping[str, Call], rounds: int, *, repeats: int = 1) -> dict[str, float]:
    """Return the least seconds of each work over some rounds, all in turns, each called a few times a turn."""

    def turn(call: Call) -> Work:
        def calls() -> None:
            for _ in range(repeats):
                call()

        return Work(calls, share=repeats, first_steps=call)

    return in_turns({name: turn(call) for name, call in works.items()}, rounds, clock=device_seconds)


def memory(call: Call) -> int:
    """Return the bytes that a work needs on the device beyond those that are in use."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def as_graph(call: Call) -> Call:
    """Return the replay of a work as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
