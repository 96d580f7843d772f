"""Between Ray Tune and the dealer: one Tuner, many studies, and a second try for a trial whose process was lost."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from raydistill.config import Sweep
from raydistill.errors import RaydistillError, RunDirectoryError
from raydistill.records import Record, RunDirectory, read_record, write_record
from raydistill.training.trial_spec import TrialSpec, failed_record
from raydistill.tuning.capacity import Workers, fits, node_resources, shortage
from raydistill.tuning.dealer import Dealer
from raydistill.tuning.refusals import REFUSED, NoRoomError, RefusedError
from raydistill.tuning.versions import versions

MAX_FAILURES = 1
"""Times that a trial whose process was lost starts again before it counts as failed.

Tune's own retries are not used: it loses count of a trial whose process dies between two trials or while it starts.
"""

MAX_LOST_NODES = 5
"""Times that a trial starts again since its node was lost, as spot machines are: that is no fault of the trial."""

NODE_LOST = ("its node has died", "The actor is temporarily unavailable")
"""Words of Ray, in the error of a process whose node was lost or taken away.

The second come first: of a process that has died alone its node tells within a second, of a node Ray learns later."""

PATIENCE_S = 600.0
"""Seconds for which no trial may run because none fits on any machine: so long may an autoscaler take."""


class _NotInSnapshots:
    """Leaves an object's state out of Tune's snapshots, which this project does not read."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class DealerSearcher(_NotInSnapshots, Searcher):
    """Hands the dealer's trials to Tune; it keeps no state of its own.

    Tune's snapshots of a searcher may lag behind what happened, so none are needed: the dealer is
    rebuilt from the records of the run directory.

    Args:
        dealer: Deals the trials.
        run: Run directory, which the trials write to.
        cache: Folder of prepared data.
        workers: Processes of each trial.
        storage: Place of the checkpoints.
        probe: File that was left there, for the machines of trials of several workers.
    """

    def __init__(
        self, dealer: Dealer, run: RunDirectory, cache: Path, workers: Workers, *, storage: str, probe: str
    ) -> None:
        super().__init__()
        self.dealer = dealer
        self.workers = workers
        self._shared = {
            "run": str(run.root),
            "cache": str(cache),
            "workers": asdict(workers),
            "versions": versions(),
            "storage": storage,
            "probe": probe,
        }
        self.specs: dict[str, TrialSpec] = {}
        self._again: list[TrialSpec] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's configuration; None to be asked again later; ``FINISHED`` at the end."""
        spec = self._again.pop(0) if self._again else self.dealer.next()
        if spec is None:
            # Who has said FINISHED is not asked again, and a trial that runs may still have to start anew.
            return Searcher.FINISHED if self.has_ended else None
        self.specs[trial_id] = spec
        own = {"spec": asdict(spec), "identity": self.dealer.identity(spec), "name": spec.name}
        return own | self._shared

    @property
    def has_ended(self) -> bool:
        """Whether every trial of the sweep has been handed out and has ended."""
        return self.dealer.is_exhausted and not self.specs and not self._again

    def again(self, spec: TrialSpec) -> None:
        """Hand out a trial once more, before any other."""
        self._again.append(spec)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Do nothing: :class:`Bookkeeper` reads the record, which says more than Tune's last result."""

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: the records are the truth."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the dealer is rebuilt from the records."""


class Bookkeeper(_NotInSnapshots, Callback):
    """Tells the dealer of every trial that ended; one that could not write its record starts again, or gets one here.

    Args:
        searcher: Knows which spec a Tune trial runs.
        sweep: The sweep.
        run: Run directory.
        on_record: Called with every record, to show progress and mirror studies.
        on_start: Called with every spec whose trial starts, once.
        on_lost: Called with every spec that starts again, and why.
    """

    def __init__(
        self,
        searcher: DealerSearcher,
        sweep: Sweep,
        run: RunDirectory,
        *,
        on_record: Callable[[Record], None],
        on_start: Callable[[TrialSpec], None],
        on_lost: Callable[[TrialSpec, str], None],
    ) -> None:
        self._searcher = searcher
        self._sweep = sweep
        self._run = run
        self._on_record = on_record
        self._on_start = on_start
        self._on_lost = on_lost
        self._begun: set[str] = set()
        self._running: set[str] = set()
        self._waits_since: float | None = None
        self._failures: Counter[str] = Counter()
        self._lost_nodes: Counter[str] = Counter()
        self.error: RaydistillError | None = None
        """Why the sweep cannot go on; Tune passes on no more than its text."""

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Say that a trial has started; one that starts again is under way already."""
        self._running.add(trial.trial_id)
        spec = self._searcher.specs[trial.trial_id]
        identity = self._searcher.dealer.identity(spec)
        if identity not in self._begun:
            self._begun.add(identity)
            self._on_start(spec)

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """End the sweep where no trial has run for minutes, and none could: Tune itself would wait for ever.

        Raises:
            NoRoomError: With what a trial asks for, and what there is.
        """
        if self._running or not self._searcher.specs:
            self._waits_since = None
            return
        self._waits_since = self._waits_since or time.monotonic()
        if time.monotonic() - self._waits_since < PATIENCE_S:
            return
        nodes = node_resources()
        if not fits(self._searcher.workers, nodes):
            self.error = NoRoomError(
                f"no trial has had room for {PATIENCE_S / 60:g} minutes: {shortage(self._searcher.workers, nodes)}",
                where="execution.gpus_per_trial, execution.cpus_per_trial",
                mend="bring back the machines that are missing, or ask for less; the same command then continues",
            )
            raise self.error

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Take note of the record that the trial wrote.

        Raises:
            RefusedError: A machine, which may have joined late, or a cluster without room has refused it.
            RaydistillError: The record is not there or not whole, or what follows from it cannot be written.
        """
        if REFUSED in trial.last_result:
            self.error = RefusedError(**trial.last_result[REFUSED])
            raise self.error
        spec = self._ended(trial)
        with self._ending_the_sweep():
            self._note(read_record(self._run.record_file(self._searcher.dealer.identity(spec))))
        _forget_metrics(trial)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Let a trial whose process died or raised start again; write its record where that has happened too often.

        Raises:
            RaydistillError: As :meth:`on_trial_complete`, whose errors Tune takes for the trial's own, and comes here;
                or not even the record of a failure can be written.
        """
        if self.error is not None:
            raise self.error
        spec = self._ended(trial)
        _forget_metrics(trial)
        identity = self._searcher.dealer.identity(spec)
        text = _error_text(trial)
        with_node = any(words in text for words in NODE_LOST)
        times, most = (self._lost_nodes, MAX_LOST_NODES) if with_node else (self._failures, MAX_FAILURES)
        times[identity] += 1
        if times[identity] <= most:
            self._searcher.again(spec)
            self._on_lost(spec, _reason(trial, text))
            return
        record = failed_record(spec, self._sweep, self._searcher.dealer.data_hash, _reason(trial, text))
        with self._ending_the_sweep():
            write_record(self._run.record_file(record.id), record)
            self._note(record)

    @contextlib.contextmanager
    def _ending_the_sweep(self) -> Iterator[None]:
        """Keep an error as the one that ends the sweep: a trial that is not noted must not count as ended."""
        try:
            yield
        except RaydistillError as error:
            self.error = error
            raise
        except OSError as error:
            self.error = RunDirectoryError(
                f"a trial that has ended cannot be noted: {error}",
                where=str(error.filename or self._run.root),
                mend="see to the disk and the run directory; the same command then continues",
            )
            raise self.error from error

    def _ended(self, trial: TuneTrial) -> TrialSpec:
        self._running.discard(trial.trial_id)
        return self._searcher.specs.pop(trial.trial_id)

    def _note(self, record: Record) -> None:
        self._searcher.dealer.finished(record)
        self._on_record(record)


def _forget_metrics(trial: TuneTrial) -> None:
    """Drop Tune's statistics of a trial's metrics: nobody reads them, and without them it leaves a tenth in memory."""
    trial.run_metadata.metric_analysis.clear()
    trial.run_metadata.metric_n_steps.clear()
    trial.run_metadata.invalidate_cache()


def _error_text(trial: TuneTrial) -> str:
    """Return the whole error of a failed trial; nothing where there is none."""
    path = trial.error_file
    return Path(path).read_text(errors="replace").strip() if path and Path(path).is_file() else ""


def _reason(trial: TuneTrial, text: str) -> str:
    """Return the line of a failed trial's error that names it, and where the whole of it lies."""
    # The errors of this project end with where and how to mend it.
    lines = [line.strip() for line in text.splitlines() if not line.strip().startswith(("where:", "mend:"))]
    return f"{lines[-1]} (whole error: {trial.error_file})" if lines else "the process ended without a word"
