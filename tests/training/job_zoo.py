"""A smallest whole sweep for the tests of teachers and trials, run in this process."""

from __future__ import annotations

from pathlib import Path

from raydistill.config import arms, n_student_layers
from raydistill.data.items import write_items
from raydistill.training.context import RunContext
from raydistill.training.prepare import prepare_teacher, prepared_teacher
from raydistill.training.prepared import PreparedTeacher
from raydistill.training.resources import Resources
from raydistill.training.trial_spec import TrialSpec
from raydistill.tuning.specs import configuration, student_fields, task_only

METRIC = "ndcg@10"

TEXT = """\
name: smallest
task: next_item
data: {source: synthetic, n_users: 40, n_items: 50, n_genres: 3, shortest: 6, longest: 9, hops: 1,
       min_interactions: 1, max_length: 8}
teacher: {family: gpt2, layers: 4, hidden: 8, heads: 2, epochs: 2, lr: 3.0e-3}
selectors: [fisher, tail, {name: random, draws: 2}]
controls: [teacher, popularity, scratch, scratch_kd, no_kd]
evidence: {samples: 12, replicates: 2, batch_size: 6}
training: {epochs: 2, batch_size: 16, lr: 3.0e-3}
search:
  trials: 2
  space: {temperature: {log_uniform: [1, 10]}, keep_ratio: {choice: [0.25, 0.5]}}
confirm: {seeds: 1}
analysis: {margin: 0.02, reference: tail}
"""


def resources_in(folder: Path, *overrides: str, run: str = "run") -> Resources:
    """Return the resources of the smallest sweep, data and run directory in ``folder``."""
    file = folder / "smallest.yaml"
    file.write_text(TEXT)
    return Resources.load(file, (f"execution.storage={folder}", *overrides), folder / run)


def prepared_in(resources: Resources, seed: int = 0) -> PreparedTeacher:
    """Return the prepared teacher of a seed, made on the first call."""
    write_items(resources.data, resources.run.data / "items.parquet")
    return prepared_teacher(resources, prepare_teacher(resources, seed, RunContext()))


def spec_of(
    resources: Resources,
    teacher: PreparedTeacher,
    arm: str = "fisher",
    *,
    keep_ratio: float = 0.5,
    phase: str = "confirm",
    seed: int = 1,
    stop_below: dict[int, float] | None = None,
    **searched: float,
) -> TrialSpec:
    """Return a trial of one arm under a prepared teacher."""
    sweep = resources.sweep
    entry = next(one for one in arms(sweep) if one.name == arm)
    fields = student_fields(
        sweep, entry, teacher, (n_student_layers(keep_ratio, teacher.n_layers), keep_ratio), phase, None
    )
    return TrialSpec(
        phase=phase,
        number=0,
        seed=seed,
        configuration=task_only(sweep) if arm in ("scratch", "no_kd") else configuration(sweep, searched),
        stop_below=stop_below or {},
        **fields,
    )


def whole_model(resources: Resources, teacher: PreparedTeacher, start: str) -> TrialSpec:
    """Return the trial of a control that trains nothing: ``teacher`` or ``popularity``."""
    return TrialSpec(
        phase="confirm", arm=start, kind="control", number=0, seed=teacher.seed, start=start, teacher=teacher.id,
        teacher_seed=teacher.seed, n_teacher_layers=teacher.n_layers,
    )  # fmt: skip
