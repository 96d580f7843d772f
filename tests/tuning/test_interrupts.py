"""Ctrl+C ends a sweep, and is never taken for the end of its trials; asked of Ray's own classes."""

from __future__ import annotations

import signal

import pytest
from ray.train.torch import TorchTrainer
from ray.tune import Tuner
from ray.tune.tune import _setup_signal_catching
from tuning_zoo import dealer_of, small_sweep

from raydistill.records import RunDirectory
from raydistill.tuning import cluster
from raydistill.tuning.sharded import InterruptibleTrainer, Workers
from raydistill.tuning.sharded_trial import TrainerInActor
from raydistill.tuning.trials import run_trials


@pytest.fixture
def handler():
    """The handler of Ctrl+C, put back at the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    yield before[signal.SIGINT]
    for number, function in before.items():
        signal.signal(number, function)


def test_tune_leaves_the_signal_alone_in_the_environment_of_a_sweep(handler, monkeypatch):
    _setup_signal_catching()
    assert signal.getsignal(signal.SIGINT) is not handler  # what it does by itself
    signal.signal(signal.SIGINT, handler)
    for name, value in cluster._QUIET.items():
        monkeypatch.setenv(name, value)
    _setup_signal_catching()
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("trainer", [InterruptibleTrainer, TrainerInActor])
def test_a_trainer_leaves_the_signal_alone(handler, trainer):
    trainer.__new__(trainer)._register_sigint_handler(None)
    assert signal.getsignal(signal.SIGINT) is handler
    TorchTrainer.__new__(TorchTrainer)._register_sigint_handler(None)
    assert signal.getsignal(signal.SIGINT) is not handler  # what is overridden is what takes it


def test_trials_that_tune_gave_up_do_not_count_as_ended(tmp_path, monkeypatch):
    sweep = small_sweep(tmp_path, "execution.concurrency=1", "execution.trackers=[]")
    monkeypatch.setattr("raydistill.tuning.trials.trial_workers", lambda sweep: Workers(1, 1.0, 0.0))
    monkeypatch.setattr(Tuner, "__init__", lambda self, *arguments, **settings: None)
    monkeypatch.setattr(Tuner, "fit", lambda self: None)
    ignored = dict.fromkeys(("on_record", "on_start", "on_lost"), lambda *arguments: None)
    with pytest.raises(KeyboardInterrupt):
        run_trials(sweep, RunDirectory(tmp_path / "run"), tmp_path, dealer_of(sweep), probe="", **ignored)
