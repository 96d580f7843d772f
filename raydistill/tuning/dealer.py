"""Which trial comes next: equal budgets for every arm, then confirmation. Plain Python, no Ray.

The dealer looks at the records of ended trials and at nothing else, least of all at a clock. So a sweep
that was killed and continues, or that has more workers, deals the same trials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from raydistill.config import Arm, Sweep, arms, strata
from raydistill.records import Record
from raydistill.training.prepared import PreparedTeacher
from raydistill.training.trial_spec import TrialSpec
from raydistill.tuning.arm_search import ArmSearch
from raydistill.tuning.specs import confirm_specs, search_specs

FINISHED = ("success", "stopped")


class Dealer:
    """Deals out the trials of a sweep: search first, and confirm where an arm's search has ended.

    Args:
        sweep: The sweep.
        data_hash: Hash of the prepared data.
        teachers: Prepared teachers; the search is under the first.
        records: Records of an earlier run; what succeeded or was stopped under these teachers is kept, what
            failed is run again. With failures that were run again before, since what follows from them may be kept.
    """

    def __init__(
        self, sweep: Sweep, data_hash: str, teachers: Sequence[PreparedTeacher], records: Sequence[Record] = ()
    ) -> None:
        self.sweep = sweep
        self.data_hash = data_hash
        self.teachers = list(teachers)
        self.arms = arms(sweep)
        self.strata = strata(sweep, self.teachers[0].n_layers)
        known = {teacher.id for teacher in self.teachers}
        records = [record for record in records if record.teacher in known]
        kept = [record for record in records if record.status in FINISHED]
        self.searches = {arm.name: self._search(arm, records) for arm in self.arms if arm.has_study}
        self.confirmed = {record.id: record for record in kept if record.phase == "confirm"}
        self.confirm: list[TrialSpec] | None = None
        self._n_ready = 0
        self._queue: list[TrialSpec] = []
        self._dealt: set[str] = set()

    def _search(self, arm: Arm, records: Sequence[Record]) -> ArmSearch:
        own = [record for record in records if (record.phase, record.arm) == ("search", arm.name)]
        return ArmSearch(
            lambda numbers, earlier: search_specs(self.sweep, arm, self.teachers[0], self.strata, numbers, earlier),
            n_trials=self.sweep.search.trials,
            epochs=self.sweep.training.epochs,
            group_size=self.sweep.search.per_arm,
            kept=[record for record in own if record.status in FINISHED],
            failed=min((record.number for record in own if record.status not in FINISHED), default=None),
            identity=self.identity,
        )

    def next(self) -> TrialSpec | None:
        """Return the next trial, or None where none can start before another ends, or none is left."""
        # The arm that is furthest behind goes first, so that arms advance together.
        for search in sorted(self.searches.values(), key=lambda search: search.n_started):
            spec = search.next()
            if spec is not None:
                return spec
        return self._next_confirm()

    def _next_confirm(self) -> TrialSpec | None:
        """Return the next confirm trial of the arms whose search has ended.

        An arm need not wait for the others: what is confirmed follows from its own search alone. So there is
        something to do while the last arms are searched, and no process stands idle.
        """
        ready = [arm for arm in self.arms if self._is_ready(arm)]
        if len(ready) > self._n_ready:
            self._n_ready = len(ready)
            searched = {name: list(search.records.values()) for name, search in self.searches.items()}
            specs = list(confirm_specs(self.sweep, ready, self.strata, self.teachers, searched))
            known = self._dealt | self.confirmed.keys()
            self._queue = [spec for spec in specs if self.identity(spec) not in known]
            self.confirm = specs if len(ready) == len(self.arms) else None
        if not self._queue:
            return None
        spec = self._queue.pop(0)
        self._dealt.add(self.identity(spec))
        return spec

    def _is_ready(self, arm: Arm) -> bool:
        if arm.name == "no_kd":  # takes the layers of the best selector of all
            return all(search.is_done for search in self.searches.values())
        return not arm.has_study or self.searches[arm.name].is_done

    @property
    def is_exhausted(self) -> bool:
        """Whether every trial of the sweep has been dealt."""
        return self.confirm is not None and not self._queue

    def trials_by_arm(self) -> dict[str, int] | None:
        """Return how many trials each arm has in all, or None while the search may still add some.

        Epochs saved by early stopping pay for further trials, so the plan alone does not tell.
        """
        if self.confirm is None:
            return None
        confirm = Counter(spec.arm for spec in self.confirm)
        searched = {name: len(search.records) for name, search in self.searches.items()}
        return {arm.name: searched.get(arm.name, 0) + confirm[arm.name] for arm in self.arms}

    def finished(self, record: Record) -> None:
        """Take note of a trial's record."""
        if record.phase == "search":
            self.searches[record.arm].finished(record)
        else:
            self.confirmed[record.id] = record

    def identity(self, spec: TrialSpec) -> str:
        """Return the identity of a trial."""
        return spec.identity(self.sweep, self.data_hash)

    @property
    def identities(self) -> set[str]:
        """Identities of all trials that the sweep consists of, once everything has been dealt."""
        searched = {record.id for search in self.searches.values() for record in search.records.values()}
        return searched | {self.identity(spec) for spec in self.confirm or ()}
