"""What Prometheus and the dashboard can read while a sweep runs: trials, best quality, throughput.

Ray exports these from every node (``ray_raydistill_...``); ``ray metrics launch-prometheus`` reads them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from ray.util.metrics import Counter, Gauge

from raydistill.records import Record, gain


class SweepMetrics:
    """Counters and gauges of one sweep, fed with each record.

    Args:
        sweep: Name of the sweep, a tag of every value.
        metric: Validation metric of which the best is shown.
    """

    def __init__(self, sweep: str, metric: str) -> None:
        self._metric = metric
        self._sweep = {"sweep": sweep}
        self._best: dict[str, float] = {}
        self._started = time.monotonic()
        self._ended = 0
        self._trials = Counter(
            "raydistill_trials_total",
            description="Trials that have ended, by arm, phase and status (success, stopped, failed).",
            tag_keys=("sweep", "arm", "phase", "status"),
        )
        self._quality = Gauge(
            "raydistill_best_validation",
            description="Best validation metric of an arm so far.",
            tag_keys=("sweep", "arm", "metric"),
        )
        self._throughput = Gauge(
            "raydistill_trials_per_hour", description="Trials ended an hour since the start.", tag_keys=("sweep",)
        )
        self._speed = Gauge(
            "raydistill_targets_per_second",
            description="Training targets a second in the last epoch of the last trial of an arm.",
            tag_keys=("sweep", "arm"),
        )

    def note(self, record: Record) -> None:
        """Take note of a trial that has ended."""
        arm = self._sweep | {"arm": record.arm}
        self._ended += 1
        self._trials.inc(tags=arm | {"phase": record.phase, "status": record.status})
        hours = (time.monotonic() - self._started) / 3600
        self._throughput.set(self._ended / max(hours, 1e-6), tags=self._sweep)
        if record.curves and "targets_per_second" in record.curves[-1]:
            self._speed.set(record.curves[-1]["targets_per_second"], tags=arm)
        self._note_best(record)

    def keep(self, records: Iterable[Record]) -> None:
        """Take note of the best of an earlier run; its trials are not counted again."""
        for record in records:
            self._note_best(record)

    def _note_best(self, record: Record) -> None:
        value = record.validation.get(self._metric)
        if record.status != "success" or value is None:
            return
        if gain(self._metric, value) > self._best.get(record.arm, float("-inf")):
            self._best[record.arm] = gain(self._metric, value)
            self._quality.set(value, tags=self._sweep | {"arm": record.arm, "metric": self._metric})
