"""The search of one arm: groups of trials until its budget of epochs is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raydistill.records import Record
from raydistill.training.trial_spec import TrialSpec


class ArmSearch:
    """Deals out one arm's trials, a group at a time.

    The trials of a group are suggested together, from the results of earlier groups; the next group opens
    when all of this one has ended. What is dealt thus depends on results only, not on when they came in.

    Args:
        make_specs: Gives the trials of some numbers, from the records of earlier groups.
        n_trials: Whole trials that the budget pays for. Epochs saved by early stopping pay for further
            trials of the same arm, as long as one could run to its end.
        epochs: Epochs of a whole trial.
        group_size: Trials of a group.
        kept: Finished trials of an earlier run; they are not run again.
        failed: Number of the first trial that failed in an earlier run, and is run again or has been. What was kept
            of later groups may have been suggested from its failure, so there it counts only where it is what is
            suggested now.
        identity: Gives the identity of a spec, to compare it with what was kept.
    """

    def __init__(
        self,
        make_specs: Callable[[Sequence[int], Sequence[Record]], list[TrialSpec]],
        *,
        n_trials: int,
        epochs: int,
        group_size: int,
        kept: Sequence[Record] = (),
        failed: int | None = None,
        identity: Callable[[TrialSpec], str] = lambda spec: spec.name,
    ) -> None:
        self._make_specs = make_specs
        self._budget = n_trials * epochs
        self._epochs = epochs
        self._group_size = group_size
        self._next_group = 0
        self._queue: list[TrialSpec] = []
        self._running: set[int] = set()
        self.records: dict[int, Record] = {record.number: record for record in kept}
        self._kept = {record.id: record for record in kept}
        self._failed = failed
        self._identity = identity
        self.is_done = False

    @property
    def n_started(self) -> int:
        """Trials that have ended or are running."""
        return len(self.records) + len(self._running)

    def next(self) -> TrialSpec | None:
        """Return the next trial, or None while the current group is running and after the budget is spent."""
        if not self._queue and not self._running:
            self._open_groups()
        if not self._queue:
            return None
        spec = self._queue.pop(0)
        self._running.add(spec.number)
        return spec

    def finished(self, record: Record) -> None:
        """Take note of a trial's record."""
        self._running.discard(record.number)
        self.records[record.number] = record

    def _open_groups(self) -> None:
        """Open the next group that has anything left to run; groups that an earlier run finished are passed over."""
        while not self._queue and not self.is_done:
            earlier = [self.records[number] for number in sorted(self.records) if number < self._next_group]
            affordable = (self._budget - sum(map(self._spent, earlier))) // self._epochs
            group = range(self._next_group, self._next_group + min(self._group_size, affordable))
            self.is_done = len(group) == 0
            self._next_group = group.stop
            if self._failed is not None and group.start > self._failed:
                self._keep_what_follows(group, earlier)
            left = [number for number in group if number not in self.records]
            self._queue = self._make_specs(left, earlier) if left else []

    def _keep_what_follows(self, group: range, earlier: Sequence[Record]) -> None:
        """Keep of a group what is suggested now; after the last group, nothing."""
        for number in [number for number in self.records if number >= group.start]:
            if number in group or self.is_done:
                del self.records[number]
        for spec in self._make_specs(group, earlier) if group else ():
            record = self._kept.get(self._identity(spec))
            if record is not None:
                self.records[spec.number] = record

    def _spent(self, record: Record) -> int:
        # A failed trial has had its chance: it is charged in full, or a failing arm would never end.
        return self._epochs if record.status == "failed" else record.epochs
