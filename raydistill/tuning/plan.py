"""What a sweep is going to do, as text for a person and as ``plan.json`` for the analysis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from raydistill.config import Arm, Sweep, arms, quality_metric, strata
from raydistill.errors import ConfigError
from raydistill.training.prepare import check_samples
from raydistill.training.tasks import task_of
from raydistill.training.trial_spec import TEACHER
from raydistill.tuning.dealer import Dealer
from raydistill.tuning.estimate import Estimate, estimate, n_confirm, n_confirm_in
from raydistill.tuning.specs import configuration, confirm_seeds, teacher_seeds
from raydistill.tuning.suggest import suggest


@dataclass(frozen=True)
class Plan:
    """Arms, strata and budgets of a sweep over its data.

    Attributes:
        sweep: The sweep.
        arms: Its arms.
        strata: Its strata, ``(n_student_layers, keep_ratio)``.
        n_teacher_layers: Depth of the teacher.
        cost: What it is expected to cost.
    """

    sweep: Sweep
    arms: list[Arm]
    strata: list[tuple[int, float]]
    n_teacher_layers: int
    cost: Estimate

    @classmethod
    def of(cls, sweep: Sweep, data: Any) -> Plan:
        """Return the plan of a sweep; of a pretrained teacher it reads the configuration, not the weights.

        Raises:
            ConfigError: The teacher has one layer, or the search is too small to find what confirm is to train in
                every stratum.
            EvidenceError: The training data have fewer examples than ``evidence.samples``.
        """
        workload = task_of(sweep).workload(sweep, data)
        check_samples(sweep, workload.examples)
        if workload.n_layers < 2:
            raise ConfigError(
                "the teacher has one layer, of which no smaller student can be made",
                where="teacher.layers" if sweep.teacher.pretrained is None else "teacher.pretrained",
                mend="use a deeper teacher; `python -m raydistill teacher` trains one of any depth alone",
            )
        chosen, layers = arms(sweep), strata(sweep, workload.n_layers)
        _check_trials(sweep, layers)
        return cls(sweep, chosen, layers, workload.n_layers, estimate(sweep, chosen, layers, workload))

    def trials_by_arm(self) -> dict[str, int]:
        """Return how many trials each arm has, search and confirm together."""
        confirm = self._n_confirm()
        return {arm.name: confirm[arm.name] + arm.has_study * self.sweep.search.trials for arm in self.arms}

    def content(self, dealer: Dealer | None = None) -> dict[str, Any]:
        """Return the content of ``plan.json``; with the confirm jobs once the search has settled them."""
        sweep, confirm = self.sweep, self._n_confirm()
        return {
            "sweep": sweep.name,
            "task": sweep.task,
            "arms": [
                {
                    "name": arm.name,
                    "kind": arm.kind,
                    "trials": arm.has_study * sweep.search.trials,
                    "epochs": arm.has_study * sweep.search.trials * sweep.training.epochs,
                    "confirm_trials": confirm[arm.name],
                }
                for arm in self.arms
            ],
            "strata": [{"n_student_layers": depth, "keep_ratio": ratio} for depth, ratio in self.strata],
            "search": {"trials": sweep.search.trials, "epochs": sweep.training.epochs},
            "confirm": {
                "seeds": list(confirm_seeds(sweep)),
                "configurations": sweep.confirm.configurations,
                "teachers": sweep.confirm.teachers,
                "missing": self.missing(dealer) if dealer and dealer.confirm is not None else [],
                "jobs": [
                    {
                        "id": dealer.identity(spec),
                        "arm": spec.arm,
                        "keep_ratio": spec.keep_ratio,
                        "seed": spec.seed,
                        "draw": spec.draw,
                        "teacher_seed": spec.teacher_seed,
                    }
                    for spec in (dealer.confirm if dealer and dealer.confirm else [])
                ],
            },
            "analysis": sweep.analysis.model_dump(mode="json"),
        }

    def missing(self, dealer: Dealer) -> list[dict[str, Any]]:
        """Return arms and keep-ratios with fewer confirm trials than were planned.

        There are such where too many search trials of a stratum failed or were stopped early.
        """
        found = Counter((spec.arm, spec.n_student_layers) for spec in dealer.confirm or ())
        result = []
        for arm, (depth, ratio) in product(self.arms, self.strata):
            planned = n_confirm_in(self.sweep, arm, depth, self.n_teacher_layers)
            if arm.in_strata and found[arm.name, depth] < planned:
                result.append(
                    {"arm": arm.name, "keep_ratio": ratio, "planned": planned, "found": found[arm.name, depth]}
                )
        return result

    def _n_confirm(self) -> dict[str, int]:
        return n_confirm(self.sweep, self.arms, self.strata, self.n_teacher_layers)

    def text(self, *, every_trial: bool = False) -> str:
        """Return the plan for a person."""
        return "\n".join([*self._summary(), *(self._trials() if every_trial else ())])

    def _summary(self) -> Iterator[str]:
        sweep, cost = self.sweep, self.cost
        confirm = sum(self._n_confirm().values())
        searched = [arm.name for arm in self.arms if arm.has_study]
        depths = " and ".join(f"{depth} of {self.n_teacher_layers}" for depth, _ in self.strata)
        yield f"plan of sweep {sweep.name}: {len(self.arms)} arms, students of {depths} layers"
        phases = {
            "teach": f"{sweep.confirm.teachers} teacher(s), at most {sweep.teacher.epochs} epochs",
            "search": f"{len(searched)} arms x {sweep.search.trials} trials x {sweep.training.epochs} epochs",
            "confirm": f"{confirm} trials, {sweep.confirm.seeds} fresh seeds, tested once",
        }
        if cost.speed is None:
            amounts = [f"{flop:7.1e} FLOP" for flop in cost.phase_flop]
        else:
            amounts = [f"{max(seconds / 60, 0.1):7.1f} min" for seconds in cost.phase_s]
        for (phase, what), amount in zip(phases.items(), amounts, strict=True):
            yield f"  {phase:<8} {what:<58} {amount}"
        yield f"  {'cache':<8} {'what the teachers answer, kept for all trials':<58} {_megabytes(cost.cache_bytes)}"
        for arm, (depth, _) in product(self.arms, self.strata):
            n_draws = arm.n_draws(depth, self.n_teacher_layers)
            if n_draws < arm.draws:
                yield (
                    f"  {arm.name} has {n_draws} draws in place of {arm.draws} at {depth} of "
                    f"{self.n_teacher_layers} layers: there are no more sets of them"
                )
        yield self._estimate()

    def _estimate(self) -> str:
        cost = self.cost
        disk = f"{_megabytes(cost.disk_bytes).strip()} of disk"
        if cost.speed is None:
            return (
                f"  estimate {sum(cost.phase_flop):.1e} FLOP (no minutes: the speed of the GPUs is not known here), "
                f"{cost.trial_bytes / 2**30:.1f} GB of memory a trial before activations, {disk} "
                "(a guide, not a promise)"
            )
        return (
            f"  estimate {cost.minutes:.0f} minutes, {cost.memory_bytes / 2**30:.1f} GB of memory, {disk} "
            "(reckoned from operations; a guide, not a promise)"
        )

    def _trials(self) -> Iterator[str]:
        """Yield a line for every trial; configurations that depend on results are said to."""
        sweep, cost = self.sweep, self.cost
        each = f"{cost.trial_flop:.1e} FLOP" if cost.speed is None else f"{cost.trial_s:5.1f} s"
        for arm in self.arms:
            if not arm.has_study:
                continue
            for number in range(sweep.search.trials):
                depth, ratio = self.strata[number % len(self.strata)]
                if number < min(sweep.search.startup, sweep.search.trials):
                    values = configuration(sweep, suggest(sweep, [number], (), quality_metric(sweep))[0])
                    said = ", ".join(f"{key}={value:.3g}" for key, value in values.items())
                else:
                    said = "suggested from the results before it"
                yield f"  search  {arm.name:<18} #{number:<3} keep {ratio:g} ({depth} layers)  {each}  {said}"
        yield from self._confirm_trials()

    def _confirm_trials(self) -> Iterator[str]:
        sweep = self.sweep
        for teacher_seed in teacher_seeds(sweep):
            under = f" under the teacher of seed {teacher_seed}" if sweep.confirm.teachers > 1 else ""
            for arm in self.arms:
                if not arm.in_strata:
                    if arm.name == TEACHER or teacher_seed == sweep.teacher.seed:
                        yield f"  confirm {arm.name:<18} as it is{under}"
                    continue
                settings = sweep.confirm.configurations if arm.has_study else 1
                cases = product(self.strata, confirm_seeds(sweep), range(settings), range(arm.draws))
                for (depth, ratio), seed, place, draw in cases:
                    if draw >= arm.n_draws(depth, self.n_teacher_layers):
                        continue
                    setting = f" setting {place + 1}" if settings > 1 else ""
                    drawn = f" draw {draw}" if arm.draws > 1 else ""
                    yield f"  confirm {arm.name:<18} keep {ratio:g} ({depth} layers) seed {seed}{setting}{drawn}{under}"


def _megabytes(size: int) -> str:
    return f"{max(size / 2**20, 0.1):7.1f} MB"


def _check_trials(sweep: Sweep, layers: list[tuple[int, float]]) -> None:
    least = len(layers) * sweep.confirm.configurations
    if sweep.search.trials < least:
        what = "one trial" if sweep.confirm.configurations == 1 else f"{sweep.confirm.configurations} trials"
        raise ConfigError(
            f"{sweep.search.trials} search trial(s) of an arm are too few for {len(layers)} keep-ratios, which take "
            f"turns: each needs {what}, or confirm has nothing to train there",
            where="search.trials",
            mend=f"set search.trials to at least {least}, or search fewer keep-ratios or confirm fewer configurations",
        )
