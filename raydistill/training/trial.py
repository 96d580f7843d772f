"""One trial: a student built, distilled, evaluated and recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from raydistill.errors import TrialDivergedError
from raydistill.losses import LossWeights
from raydistill.losses.distillation import TASK_ONLY
from raydistill.metrics import PeakMemory, count_parameters
from raydistill.records import MODEL, RECORD, Record, gain, write_record
from raydistill.seeding import stream_seed
from raydistill.training import build
from raydistill.training.context import RunContext
from raydistill.training.loop import DistillationTrainer, TrainingResult
from raydistill.training.resources import Resources
from raydistill.training.trial_spec import FROM_TEACHER, LABELS, POPULARITY, RANDOM, TEACHER, TrialSpec
from raydistill.training.twins import as_own, copy_files, find_twin, note_computation


class Trial:
    """A trial under way; :meth:`epochs` trains, :meth:`finish` evaluates and writes the record.

    Args:
        spec: What to do.
        resources: What to do it with.
        context: Where it runs.
        folder: Where record and ranks go, the model being the caller's to keep; the trial's own place in the
            run directory where None.
    """

    def __init__(
        self,
        spec: TrialSpec,
        resources: Resources,
        context: RunContext | None = None,
        *,
        folder: Path | None = None,
    ) -> None:
        self.spec = spec
        self.resources = resources
        self.context = context or RunContext()
        self.sweep = resources.sweep
        self.task = resources.task
        self.id = spec.identity(self.sweep, resources.data.hash)
        self._computation = spec.computation(self.sweep, resources.data.hash)
        self._twin: Record | None = None
        self.folder = folder or resources.run.trial(self.id)
        self._keeps_model = self.sweep.execution.keep_models and folder is None
        self.started = time.time()
        self._clock = time.perf_counter()
        self._spent_before = 0.0  # seconds of training and evaluation in the process that this one goes on from
        self.result = TrainingResult()
        self.status = "success"
        self.error: str | None = None
        self.model: nn.Module | None = None
        self._memory = PeakMemory()
        self._parameters: dict[str, int] = {}

    def epochs(self) -> Iterator[dict[str, Any]]:
        """Train, yielding the numbers of each epoch; a stopped or diverged trial ends early, and says so.

        Where another trial of the sweep has done the same computation, its numbers are yielded instead.
        """
        if self.folder == self.resources.run.trial(self.id):
            # The first worker decides for all: a file may become visible to them at different moments.
            self._twin = self.context.gather(find_twin(self.resources.run, self._computation))[0]
        if self._twin is not None:
            yield from self._twin.curves
            return
        with self._memory:
            try:
                self.model = self._build()
                if self.model is not None:
                    # Before adapters are added: what a student has depends on its depth, however its trial ends.
                    self._parameters = count_parameters(self.model)
                if self.spec.start in (FROM_TEACHER, RANDOM):
                    yield from self._train()
            except TrialDivergedError as error:
                self.status, self.error = "failed", str(error)

    def finish(self) -> Record:
        """Return the trial's record, written to the run directory with the ranks, the record last."""
        if self._twin is not None:
            return self._copied(self._twin)
        test, digest, ranking_seconds = None, None, 0.0
        if self.spec.phase == "confirm" and self.status == "success":
            with self._memory:
                try:
                    test, digest, ranking_seconds = self._test()
                except TrialDivergedError as error:
                    self.status, self.error = "failed", str(error)
        self.result.evaluation_seconds += ranking_seconds
        record = self._record(test, digest)
        if self.context.is_first:
            if self._keeps_model and test is not None and self.spec.start in (FROM_TEACHER, RANDOM):
                self.model.save_pretrained(self.folder / MODEL)
            write_record(self.folder / RECORD, record)
            if self.folder == self.resources.run.trial(self.id):
                note_computation(self.resources.run, self._computation, record)
        return record

    def _copied(self, twin: Record) -> Record:
        if twin.id == self.id:  # it was killed after all was written, and before anybody heard of it
            return twin
        labels = {name: value for name, value in self.spec.record_fields().items() if name in LABELS}
        costs = twin.cost | {"evidence_seconds": self.spec.evidence_seconds}
        record = as_own(
            twin, id=self.id, name=self.spec.name, cost=costs, started=self.started, finished=time.time(), **labels
        )
        if self.context.is_first:
            copy_files(self.resources.run, twin, self.folder)
            write_record(self.folder / RECORD, record)
        return record

    def _build(self) -> nn.Module | None:
        spec, sweep, data = self.spec, self.sweep, self.resources.data
        if spec.start == POPULARITY:
            return None
        if spec.start == RANDOM:
            # Arms of one seed share their initialization, so that comparisons are paired.
            seed = stream_seed(spec.seed, "initialization") % 2**31
            return self.task.untrained(sweep, data, seed=seed, layers=spec.n_student_layers)
        teacher = self.resources.teacher(spec.teacher).to(self.context.device)
        if spec.start == TEACHER:
            return teacher
        return teacher.keep_layers(list(spec.layer_map), teacher_hash=spec.teacher)

    def _train(self) -> Iterator[dict[str, Any]]:
        spec, resources = self.spec, self.resources
        weights = loss_weights(spec.configuration)
        if spec.start == FROM_TEACHER:
            # Of random weights all are trained: beside frozen ones, adapters would learn next to nothing.
            adapters = stream_seed(spec.seed, "adapters") % 2**31
            self.model = self.task.adapted(self.sweep, self.model, is_teacher=False, seed=adapters)
        dataset = self.task.dataset(
            self.sweep,
            resources.data,
            causal=self.model.causal,
            teacher_seed=spec.teacher_seed,
            cache=resources.teacher_cache(spec.teacher) if weights.needs_teacher else None,
        )
        settings = build.student_settings(
            self.sweep,
            seed=spec.seed,
            lr=spec.configuration.get("lr"),
            weight_decay=spec.configuration.get("weight_decay"),
        )
        trainer = DistillationTrainer(
            self.model, dataset, weights, settings, evaluate=self._validate, context=self.context
        )
        trainer.resume()
        self.result = trainer.result
        self._spent_before = self.result.training_seconds + self.result.evaluation_seconds
        # The process may have been lost after an epoch's checkpoint and before its threshold.
        if any(self._falls_short(row, settings.metric) for row in self.result.curves):
            self.status = "stopped"
            return
        for row in trainer.epochs():
            yield row
            if self._falls_short(row, settings.metric):
                self.status = "stopped"
                return
        self.model = self.task.merged(self.model)

    def _falls_short(self, row: dict[str, Any], metric: str) -> bool:
        threshold = self.spec.stop_below.get(row["epoch"])
        return threshold is not None and not gain(metric, row[metric]) > threshold

    def _validate(self, model: nn.Module) -> dict[str, float]:
        task, data = self.task, self.resources.data
        wanted = task.metrics_wanted(self.sweep)
        return task.metrics_of(self.sweep, task.evaluate(model, data, "validation", context=self.context, only=wanted))

    def _test(self) -> tuple[dict[str, float], str, float]:
        started = time.perf_counter()
        data, spec, task = self.resources.data, self.spec, self.task
        if spec.start == POPULARITY:
            columns = task.evaluate_popularity(data, "test")
            self.result.validation = task.metrics_of(self.sweep, task.evaluate_popularity(data, "validation"))
        else:
            columns = task.evaluate(self.model, data, "test", context=self.context)
        if spec.start == TEACHER:
            self.result.validation = self._validate(self.model)
        digest = ""
        if self.context.is_first:
            digest = task.write_scores(self.folder / task.scores, columns)
        return task.metrics_of(self.sweep, columns), digest, time.perf_counter() - started

    def _record(self, test: dict[str, float] | None, digest: str | None) -> Record:
        spec, result = self.spec, self.result
        return Record(
            id=self.id,
            name=spec.name,
            sweep=self.sweep.name,
            test=test,
            ranks_sha256=digest,
            status=self.status,
            error=self.error,
            epochs=len(result.curves),
            validation=result.validation,
            curves=tuple(result.curves),
            cost=self._cost(),
            started=self.started,
            finished=time.time(),
            **spec.record_fields(),
        )

    def _cost(self) -> dict[str, Any]:
        spec, result = self.spec, self.result
        spent = result.training_seconds + result.evaluation_seconds - self._spent_before
        cost: dict[str, Any] = {
            "training_seconds": result.training_seconds,
            "evaluation_seconds": result.evaluation_seconds,
            "overhead_seconds": time.perf_counter() - self._clock - spent,
            "evidence_seconds": spec.evidence_seconds,
            "peak_memory_bytes": self._memory.bytes,
        }
        if self._memory.device_bytes:
            cost["peak_device_memory_bytes"] = self._memory.device_bytes
        if self.model is not None:
            depth = str(self.model.n_layers)
            cost |= self._parameters
            measured = self.resources.profile(spec.teacher)["depths"].get(depth, {})
            cost |= {name: measured[name] for name in ("flops", "latency_ms") if name in measured}
        return cost


def loss_weights(configuration: dict[str, Any]) -> LossWeights:
    """Return the loss of a configuration; one without ``alpha_dist`` is the task loss alone."""
    if configuration.get("alpha_dist") is None:
        return TASK_ONLY
    return LossWeights(
        temperature=configuration["temperature"],
        alpha_dist=configuration["alpha_dist"],
        alpha_task=configuration["alpha_task"],
        alpha_hidden=configuration["alpha_hidden"],
    )
