"""One Tune trial: a single process that trains a student, epoch by epoch, in a reused actor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from ray import tune
from ray._raylet import setproctitle

from raydistill.training.context import RunContext, best_device
from raydistill.training.resources import Resources
from raydistill.training.trial import Trial
from raydistill.training.trial_spec import TrialSpec
from raydistill.tuning.attachment import attach
from raydistill.tuning.refusals import RefusedError, refusal

_RESOURCES: dict[str, Resources] = {}
"""Data, teachers and caches of this process, by run directory: attached once, used by all its trials."""


def resources_of(config: Mapping[str, Any]) -> Resources:
    """Return this process's resources for the run directory of a trial, opened on the first call.

    Raises:
        RefusedError: This machine runs other code, or does not see what the sweep has prepared.
    """
    run = config["run"]
    if run not in _RESOURCES:
        _RESOURCES[run] = attach(config)
    return _RESOURCES[run]


class DistillTrainable(tune.Trainable):
    """Runs the trial of ``config["spec"]``; one step is one epoch, the last step writes the record."""

    def setup(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        self._refusal: dict[str, Any] | None = None
        try:
            self._start(config)
        except RefusedError as error:
            self._refusal = refusal(error)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._refusal is not None:
            return {"done": True, **self._refusal}
        # What `ps` and the dashboard's list of processes show; Ray names the process anew in every call.
        setproctitle(f"ray::{type(self).__name__} {self._trial.spec.name}")
        row = next(self._rows, None)
        if row is not None:
            return {key: value for key, value in row.items() if key != "epoch"}
        record = self._trial.finish()
        return {"done": True, "record": record.id, "status": record.status}

    def _start(self, config: dict[str, Any]) -> None:
        resources = resources_of(config)
        execution = resources.sweep.execution
        self._trial, self._rows = None, iter(())
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # what the last trial's graphs held is of no use to the next one's
        # Where Ray counts no GPU for a trial, it must not take one: as many as there are CPUs would share it.
        device = best_device() if execution.gpus_per_trial else torch.device("cpu")
        context = RunContext(device=device, graphs=execution.cuda_graphs)
        self._trial = Trial(TrialSpec(**config["spec"]), resources, context)
        self._rows = self._trial.epochs()
