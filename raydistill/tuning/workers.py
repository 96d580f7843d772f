"""What the workers of Ray Train do: prepare a teacher, or run a trial.

What they need is imported as they begin. The processes that start and watch workers know these functions too, and would
load transformers for nothing, before the first worker is started.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray._raylet import setproctitle

from raydistill.garbage import without_collection
from raydistill.training.context import RunContext
from raydistill.training.trial_spec import TrialSpec
from raydistill.tuning.versions import check_versions


def prepare_in_worker(arguments: Mapping[str, Any], context: RunContext) -> str:
    """Return the identity of the teacher that this worker, with the others, has prepared.

    Raises:
        RefusedError: This machine runs other code, or does not see what the sweep has prepared.
    """
    check_versions(arguments["versions"])  # before other code is imported
    with without_collection():
        from raydistill.training.prepare import prepare_teacher
        from raydistill.tuning.attachment import attach

    resources = attach(arguments)
    return prepare_teacher(resources, arguments["seed"], context.as_asked(resources.sweep.execution))


def train_in_worker(arguments: Mapping[str, Any], context: RunContext) -> str:
    """Return the identity of the trial that this worker, with the others, has run.

    Raises:
        RefusedError: As of :func:`prepare_in_worker`.
    """
    check_versions(arguments["versions"])
    with without_collection():
        from raydistill.training.trial import Trial
        from raydistill.tuning.trainable import resources_of

    resources = resources_of(arguments)
    trial = Trial(TrialSpec(**arguments["spec"]), resources, context.as_asked(resources.sweep.execution))
    setproctitle(f"ray::RayTrainWorker {trial.spec.name}")
    for _row in trial.epochs():
        setproctitle(f"ray::RayTrainWorker {trial.spec.name}")  # Ray names the process anew whenever it looks at it
    return trial.finish().id
