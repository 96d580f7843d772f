"""What a sweep exports, with Ray's counters and gauges replaced by ones that can be read here."""

from __future__ import annotations

from collections import defaultdict
from typing import ClassVar

import pytest
from tuning_zoo import METRIC, dealer_of, record_of, small_sweep

from raydistill.tuning import metrics
from raydistill.tuning.metrics import SweepMetrics


class Told:
    """A counter or gauge whose values can be read."""

    values: ClassVar[dict[str, dict[str, float]]] = defaultdict(dict)

    def __init__(self, name, **settings):
        self.own = self.values[name]

    def set(self, value, tags):
        self.own[tags.get("arm", "")] = value

    def inc(self, tags):
        self.own[tags["arm"]] = self.own.get(tags["arm"], 0) + 1


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(metrics, "Gauge", Told)
    monkeypatch.setattr(metrics, "Counter", Told)
    Told.values.clear()
    return Told.values


def test_the_best_of_an_earlier_run_stays_the_best_and_is_not_counted_again(tmp_path, told):
    sweep = small_sweep(tmp_path)
    spec = dealer_of(sweep).next()

    def record(value, status="success"):
        return record_of(spec, sweep, status=status, curves=[{"epoch": 1, METRIC: value}])

    exported = SweepMetrics("small", METRIC)
    exported.keep([record(0.2), record(0.4), record(0.3), record(0.9, "stopped")])
    assert told["raydistill_best_validation"] == {spec.arm: 0.4}
    assert told["raydistill_trials_total"] == told["raydistill_trials_per_hour"] == {}
    exported.note(record(0.1))
    assert told["raydistill_best_validation"] == {spec.arm: 0.4}
    exported.note(record(0.5))
    assert told["raydistill_best_validation"] == {spec.arm: 0.5}
    assert told["raydistill_trials_total"] == {spec.arm: 2}
