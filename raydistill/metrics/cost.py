"""What a model costs: parameters, floating-point operations, latency and peak memory, all measured."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return ``parameters`` and ``backbone_parameters``, the latter without embedding tables.

    Shared parameters count once. In a recommender the item table dominates, so both are reported.
    """
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
    return {
        "parameters": sum(sizes.values()),
        "backbone_parameters": sum(size for key, size in sizes.items() if key not in embeddings),
    }


def forward_flops(forward: Callable[[], object]) -> int:
    """Return the floating-point operations of one call, counted by torch from the operators that ran."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    return int(counter.get_total_flops())


def latency_ms(forward: Callable[[], object], *, repeats: int = 30, warmup: int = 3) -> dict[str, float]:
    """Return the median and 95th percentile of one call's duration, in milliseconds.

    Args:
        forward: What to time; it runs without gradients.
        repeats: Timed calls.
        warmup: Calls before those.
    """
    return percentiles(call_ms(forward, repeats=repeats, warmup=warmup))


def call_ms(
    forward: Callable[[], object], *, repeats: int, warmup: int, at_most_s: float = float("inf")
) -> list[float]:
    """Return the durations of calls in milliseconds.

    Args:
        forward, repeats, warmup: As :func:`latency_ms`.
        at_most_s: Seconds of timed calls after which no further one begins; two are made in any case.
    """
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    durations: list[float] = []
    with torch.no_grad():
        for _ in range(warmup):
            forward()
        while len(durations) < repeats and (len(durations) < 2 or sum(durations) < 1e3 * at_most_s):
            synchronize()
            start = time.perf_counter()
            forward()
            synchronize()
            durations.append(1e3 * (time.perf_counter() - start))
    return durations


def percentiles(durations: Sequence[float]) -> dict[str, float]:
    """Return ``p50`` and ``p95`` of some durations."""
    return {"p50": float(np.median(durations)), "p95": float(np.percentile(durations, 95))}


class PeakMemory:
    """Context manager that measures the peak resident memory of this process while it is open.

    On Linux the kernel's high-water mark is reset on entry, so a reused process reports each trial's own
    peak; elsewhere ``bytes`` is the peak since the process began. ``device_bytes`` is the peak of
    the accelerator's allocator, 0 without one. Opened more than once, it keeps the highest.
    """

    bytes: int = 0
    device_bytes: int = 0

    def __enter__(self) -> PeakMemory:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.bytes = max(self.bytes, _high_water_mark())
        if torch.cuda.is_available():
            self.device_bytes = max(self.device_bytes, torch.cuda.max_memory_reserved())


def _high_water_mark() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
