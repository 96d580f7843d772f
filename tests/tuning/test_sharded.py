"""Runs of several workers, as far as they can be asked about without any."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray import tune
from tuning_zoo import small_sweep

from raydistill.training.context import RunContext
from raydistill.tuning import job, sharded_trial
from raydistill.tuning.trainable import refusal
from raydistill.tuning.versions import OtherCodeError, versions


def test_a_worker_that_runs_other_code_ends_the_sweep_and_not_its_trial_alone(tmp_path, monkeypatch):
    error, said = OtherCodeError.of("late", ["raydistill 0 (here 1)"]), []

    def refuse(*arguments, **settings):
        raise error

    resources = SimpleNamespace(sweep=small_sweep(tmp_path), data=SimpleNamespace(hash="datahash"))
    monkeypatch.setattr(sharded_trial, "resources_of", lambda config: resources)
    monkeypatch.setattr(sharded_trial, "run_sharded", refuse)
    monkeypatch.setattr(tune, "report", said.append)
    spec = {"phase": "search", "arm": "uniform", "kind": "selector", "number": 0, "seed": 0, "start": "random"}
    workers = {"number": 2, "cpus": 1.0, "gpus": 0.0}
    sharded_trial.run_sharded_trial(
        {"spec": spec, "run": str(tmp_path), "cache": "", "versions": {}, "workers": workers}
    )
    assert said == [refusal(error)]


def test_a_worker_of_the_teacher_that_runs_other_code_refuses(tmp_path):
    arguments = {"run": str(tmp_path), "cache": "", "seed": 0, "versions": versions() | {"raydistill": "another"}}
    with pytest.raises(OtherCodeError, match="another"):
        job.prepare_in_worker(arguments, RunContext())
