"""A whole sweep, phase by phase."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raydistill.config import Sweep, quality_metric, teacher_identity
from raydistill.errors import CorruptArtifactError
from raydistill.metrics import PeakMemory
from raydistill.records import Record, RunDirectory, write_json
from raydistill.training.prepare import MEMORY, prepared_teacher
from raydistill.training.prepared import PreparedTeacher
from raydistill.training.resources import Resources, note_prepared
from raydistill.training.teach import describe_teacher, read_history, warn_if_weak
from raydistill.training.trial_spec import TrialSpec
from raydistill.tuning import checkpoints, cluster, preflight
from raydistill.tuning.dealer import Dealer
from raydistill.tuning.directory import describe_run, kept_records, open_run_directory, search_failures, set_aside
from raydistill.tuning.metrics import SweepMetrics
from raydistill.tuning.plan import Plan
from raydistill.tuning.progress import Progress
from raydistill.tuning.specs import teacher_seeds
from raydistill.tuning.versions import versions
from raydistill.tuning.workers import prepare_in_worker


@dataclass(frozen=True)
class Job:
    """A sweep with its run directory.

    Attributes:
        sweep: The sweep.
        run: Its run directory.
        cache: Folder of raw and prepared data, shared by the sweeps of one storage place.
    """

    sweep: Sweep
    run: RunDirectory
    cache: Path

    @classmethod
    def load(cls, file: Path | str, overrides: Sequence[str], run_dir: Path | str | None) -> Job:
        """Return the job of a sweep file; nothing is written.

        Raises:
            ConfigError: With every mistake in the file.
        """
        found = Resources.load(file, overrides, run_dir)
        return cls(found.sweep, found.run, found.cache)

    @property
    def resources(self) -> Resources:
        """What the job reads, opened on first use."""
        return Resources(self.sweep, self.run, self.cache)

    def describe(self, *, every_trial: bool = False) -> str:
        """Return the plan and its estimate, as text."""
        return Plan.of(self.sweep, self.resources.data).text(every_trial=every_trial)

    def execute(self, *, fresh: bool = False) -> int:
        """Run what is left of the sweep, to its report, and return the exit code.

        Raises:
            RaydistillError: With what is wrong, where, and how to mend it.
        """
        with open_run_directory(self.run, self.sweep, fresh=fresh):
            resources = self.resources
            with PeakMemory() as in_data:
                data = resources.data
            print("\n".join(resources.task.describe(data)))
            plan = Plan.of(self.sweep, data)
            print(plan.text())
            describe_run(self.run, self.sweep, data)
            note_prepared(self.run, resources.task, data)
            write_json(self.run.plan_file, plan.content())
            try:
                with PeakMemory() as in_driver:
                    dealer = self._run_phases(resources, plan)
            finally:
                cluster.stop()
            write_json(self.run.plan_file, plan.content(dealer))
            write_json(self.run.root / MEMORY, {"data_bytes": in_data.bytes, "driver_bytes": in_driver.bytes})
            set_aside(self.run, dealer.identities)
        return self._conclude()

    def _run_phases(self, resources: Resources, plan: Plan) -> Dealer:
        # Ray is started last, so that mistakes in data or configuration come at once.
        records = kept_records(self.run)
        expected = plan.trials_by_arm()
        preflight.check_token(self.sweep)
        with (
            Progress(expected, quality_metric(self.sweep)) as progress,
            checkpoints.probed_place(self.sweep, self.run) as probe,
        ):
            progress.phase("starting Ray")
            dashboard = cluster.start(self.sweep)
            if dashboard:
                progress.phase(f"dashboard: {dashboard}")
            preflight.check_cluster(self.sweep, self.run, self.cache, notify=progress.phase)
            exported = SweepMetrics(self.sweep.name, quality_metric(self.sweep))
            teachers = [self._prepared(resources, seed, probe, progress) for seed in teacher_seeds(self.sweep)]
            dealt = [*records, *search_failures(self.run, records)]
            dealer = Dealer(self.sweep, resources.data.hash, teachers, dealt)

            def start(spec: TrialSpec) -> None:
                progress.expect(dealer.trials_by_arm() or expected)
                progress.started(spec)

            def note(record: Record) -> None:
                progress.ended(record)
                exported.note(record)

            kept = [record for record in records if record.status != "failed"]
            progress.keep(kept)
            exported.keep(kept)
            from raydistill.tuning.trials import run_trials

            run_trials(
                self.sweep,
                self.run,
                self.cache,
                dealer,
                probe=probe,
                on_record=note,
                on_start=start,
                on_lost=progress.lost,
            )
            for short in plan.missing(dealer):
                progress.say(
                    "{arm} has {found} of {planned} confirm trials at keep-ratio {keep_ratio:g}: too many of its "
                    "search trials there failed or were stopped early".format(**short)
                )
            progress.phase("writing the report")
        return dealer

    def _prepared(self, resources: Resources, seed: int, probe: str, progress: Progress) -> PreparedTeacher:
        """Return a teacher that is ready for students, made by Ray Train unless it is there already."""
        identity = teacher_identity(self.sweep, resources.data.hash, seed)
        ready = prepared_teacher(resources, identity)
        if ready is None:
            from raydistill.tuning.sharded import run_sharded, teacher_workers

            progress.phase(f"teacher {identity} (seed {seed}): training, evidence, cached outputs")
            run_sharded(
                prepare_in_worker,
                {"run": str(self.run.root), "cache": str(self.cache), "seed": seed, "versions": versions()},
                teacher_workers(self.sweep),
                name=f"teacher-{identity}",
                storage=checkpoints.place_of(self.sweep, self.run),
                probe=probe,
            )
            ready = prepared_teacher(Resources(self.sweep, self.run, self.cache), identity)
            if ready is None:
                raise CorruptArtifactError("the teacher was made, but not all of it is there", where=str(self.run.root))
            checkpoints.remove(checkpoints.place_of(self.sweep, self.run), f"teacher-{identity}")
        self._report_teacher(identity, progress)
        return ready

    def _report_teacher(self, identity: str, progress: Progress) -> None:
        history = read_history(self.run.teacher(identity))
        metric = quality_metric(self.sweep)
        progress.phase(describe_teacher(identity, history, metric))
        warning = warn_if_weak(history, metric)
        if warning:
            progress.say(warning)

    def _conclude(self) -> int:
        """Start the analysis, which needs neither torch nor Ray, and pass its exit code on."""
        command = [sys.executable, "-m", "analysis", str(self.run.root)]
        return subprocess.run(command, check=False, env=os.environ | {"MPLBACKEND": "Agg"}).returncode
