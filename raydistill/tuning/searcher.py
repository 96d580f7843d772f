"""Between Ray Tune and the dealer: one Tuner, many studies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from raydistill.config import Sweep
from raydistill.records import Record, RunDirectory, read_record, write_record
from raydistill.training.trial import TrialSpec, failed_record
from raydistill.tuning.dealer import Dealer
from raydistill.tuning.sharded import Workers


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
    """

    def __init__(self, dealer: Dealer, run: RunDirectory, cache: Path, workers: Workers) -> None:
        super().__init__()
        self.dealer = dealer
        self._shared = {"run": str(run.root), "cache": str(cache), "workers": asdict(workers)}
        self.specs: dict[str, TrialSpec] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's configuration; None to be asked again later; ``FINISHED`` at the end."""
        spec = self.dealer.next()
        if spec is None:
            return Searcher.FINISHED if self.dealer.is_exhausted else None
        self.specs[trial_id] = spec
        return {"spec": asdict(spec), "name": spec.name, **self._shared}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Do nothing: :class:`Bookkeeper` reads the record, which says more than Tune's last result."""

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: the records are the truth."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the dealer is rebuilt from the records."""


class Bookkeeper(_NotInSnapshots, Callback):
    """Tells the dealer of every trial that ended, and writes the record of one that could not itself.

    Args:
        searcher: Knows which spec a Tune trial runs.
        sweep: The sweep.
        run: Run directory.
        on_record: Called with every record, to show progress and mirror studies.
        on_start: Called with every spec whose trial starts.
    """

    def __init__(
        self,
        searcher: DealerSearcher,
        sweep: Sweep,
        run: RunDirectory,
        *,
        on_record: Callable[[Record], None],
        on_start: Callable[[TrialSpec], None],
    ) -> None:
        self._searcher = searcher
        self._sweep = sweep
        self._run = run
        self._on_record = on_record
        self._on_start = on_start
        self._begun: set[str] = set()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Say that a trial has started; one that starts again, since its process was lost, is under way already."""
        if trial.trial_id not in self._begun:
            self._begun.add(trial.trial_id)
            self._on_start(self._searcher.specs[trial.trial_id])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Take note of the record that the trial wrote."""
        spec = self._searcher.specs.pop(trial.trial_id)
        self._note(read_record(self._run.record_file(self._searcher.dealer.identity(spec))))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Write the record of a trial whose process died or raised."""
        spec = self._searcher.specs.pop(trial.trial_id)
        record = failed_record(spec, self._sweep, self._searcher.dealer.data_hash, _reason(trial))
        write_record(self._run.record_file(record.id), record)
        self._note(record)

    def _note(self, record: Record) -> None:
        self._searcher.dealer.finished(record)
        self._on_record(record)


def _reason(trial: TuneTrial) -> str:
    """Return the last line of a failed trial's error, which names it, and where the whole of it lies."""
    path = trial.error_file
    text = Path(path).read_text(errors="replace").strip() if path and Path(path).is_file() else ""
    last = text.splitlines()[-1].strip() if text else "the process ended without a word"
    return f"{last} (whole error: {path})" if text else last
