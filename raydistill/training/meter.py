"""Seconds and peak memory of named parts of a computation."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch

SAMPLING_SECONDS = 0.005


class Meter:
    """Adds up the seconds of each part, and keeps its peak memory.

    Peak memory is how far the part went above what was in use when the meter started: on an accelerator as the
    allocator counts it, on the CPU as resident memory of the process, read every 5 ms, so that a part of a few
    milliseconds may show too little.

    Args:
        device: Where the computation runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.peak_bytes: dict[str, int] = defaultdict(int)
        self._part: str | None = None
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._base = self._in_use()

    def __enter__(self) -> Meter:
        if self.device.type != "cuda":
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        if self.device.type != "cuda":
            self._thread.join()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge what runs inside to ``name``; parts do not nest."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        self._part = name
        start = time.perf_counter()
        try:
            yield
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
                self._note(name, torch.cuda.max_memory_allocated(self.device))
            else:
                self._note(name, self._in_use())
            self._part = None
            self.seconds[name] += time.perf_counter() - start

    def replace(self, shares: Iterable[tuple[Mapping[str, float], Mapping[str, int]]]) -> None:
        """Take the sum of some workers' seconds, and the highest of their peaks, in place of the own."""
        self.seconds.clear()
        self.peak_bytes.clear()
        for seconds, peaks in shares:
            for name, value in seconds.items():
                self.seconds[name] += value
            for name, value in peaks.items():
                self.peak_bytes[name] = max(self.peak_bytes[name], value)

    def _in_use(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return self._process.memory_info().rss

    def _note(self, name: str, in_use: int) -> None:
        self.peak_bytes[name] = max(self.peak_bytes[name], in_use - self._base)

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLING_SECONDS):
            part = self._part
            if part is not None:
                self._note(part, self._in_use())
