"""What a person sees: counts, the best so far, failures by name, plain lines outside a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from tuning_zoo import METRIC, dealer_of, invented_record, small_sweep

from raydistill.tuning import progress as progress_module
from raydistill.tuning.progress import Progress


@pytest.fixture
def sweep(tmp_path):
    return small_sweep(tmp_path)


@pytest.fixture
def every_line(monkeypatch):
    monkeypatch.setattr(progress_module, "PLAIN_INTERVAL_S", 0.0)


def shown(*, terminal: bool = False) -> tuple[io.StringIO, Console]:
    out = io.StringIO()
    return out, Console(file=out, force_terminal=terminal, width=160, highlight=False)


def first_specs(sweep, n):
    dealer = dealer_of(sweep)
    return [dealer.next() for _ in range(n)]


def test_plain_lines_count_what_has_ended_what_runs_and_what_failed(sweep, every_line):
    out, console = shown()
    specs = first_specs(sweep, 4)
    with Progress({"fisher": 5, "uniform": 5, "random": 5, "scratch_kd": 5}, METRIC, console) as progress:
        for spec in specs[:3]:
            progress.started(spec)
        good = invented_record(specs[0], sweep)
        progress.ended(good)
        progress.started(specs[3])
        progress.ended(invented_record(specs[1], sweep, fails=True))
    lines = out.getvalue().splitlines()
    assert lines[0].endswith("searching")
    assert "1/20 trials, 3 running, 0 failed" in lines[1]
    assert f"best validation {METRIC} {good.validation[METRIC]:.4f} ({specs[0].arm})" in lines[1]
    assert f"failed: {specs[1].name}: it broke" in lines
    assert "2/20 trials, 2 running, 1 failed" in lines[-1]
    assert "\x1b" not in out.getvalue()


def test_a_failed_or_stopped_trial_is_never_the_best(sweep, every_line):
    out, console = shown()
    spec = first_specs(sweep, 1)[0]
    record = invented_record(spec, sweep)
    with Progress({spec.arm: 3}, METRIC, console) as progress:
        for status in ("stopped", "failed"):
            progress.started(spec)
            progress.ended(type(record)(**vars(record) | {"status": status, "error": "why"}))
    assert "best" not in out.getvalue()


def test_kept_trials_are_counted_as_done_but_not_as_work_of_this_run(sweep, every_line):
    out, console = shown()
    records = [invented_record(spec, sweep) for spec in first_specs(sweep, 4)]
    with Progress({"fisher": 2, "uniform": 2, "random": 2, "scratch_kd": 2}, METRIC, console) as progress:
        progress.keep(records[:3])
        progress.started(first_specs(sweep, 4)[3])
        progress.ended(records[3])
    assert "4/8 trials, 0 running" in out.getvalue()
    assert "time left unknown" in out.getvalue()  # one trial of this run says nothing yet


def test_one_clock_runs_through_a_sweep_that_continues(sweep, every_line, monkeypatch):
    out, console = shown()
    now = [1000.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    records = [invented_record(spec, sweep) for spec in first_specs(sweep, 5)]
    with Progress({"fisher": 10}, METRIC, console) as progress:
        now[0] += 70
        progress.keep(records[:1])
        for spec, record in list(zip(first_specs(sweep, 5), records, strict=True))[1:4]:
            progress.started(spec)
            now[0] += 10
            progress.ended(record)
        progress.started(first_specs(sweep, 5)[4])
    assert "[1:40] searching: 4/10 trials, 1 running" in out.getvalue()
    assert "about 1:00 left" in out.getvalue()  # 30 seconds for three trials; the first was here before


def test_what_has_ended_has_no_time_left(sweep, every_line):
    out, console = shown()
    with Progress({"fisher": 3}, METRIC, console) as progress:
        for spec in first_specs(sweep, 3):
            progress.started(spec)
            progress.ended(invented_record(spec, sweep))
    last = out.getvalue().splitlines()[-1]
    assert "3/3 trials, 0 running" in last
    assert "left" not in last


def test_phases_are_said_once_as_they_change(sweep, every_line):
    out, console = shown()
    with Progress({"fisher": 3}, METRIC, console) as progress:
        progress.phase("starting Ray")
        for spec in first_specs(sweep, 2):
            progress.started(spec)
    text = out.getvalue()
    assert text.count("starting Ray") == 1
    assert text.count("searching") == 1


def test_a_terminal_shows_a_row_for_each_arm(sweep):
    out, console = shown(terminal=True)
    spec = first_specs(sweep, 1)[0]
    with Progress({"fisher": 3, "uniform": 3}, METRIC, console) as progress:
        progress.started(spec)
        console.print(progress._render())
    text = out.getvalue()
    for expected in ("stopped early", "fisher", "0/3", "uniform"):
        assert expected in text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.9, "1:01"), (3725, "1:02:05")])
def test_clock(seconds, text):
    assert progress_module._clock(seconds) == text


def test_the_total_follows_what_the_search_has_settled(sweep, every_line):
    out, console = shown()
    spec = first_specs(sweep, 1)[0]
    with Progress({spec.arm: 3}, METRIC, console) as progress:
        progress.expect({spec.arm: 4})
        progress.started(spec)
        progress.ended(invented_record(spec, sweep))
    assert "1/4 trials" in out.getvalue().splitlines()[-1]
