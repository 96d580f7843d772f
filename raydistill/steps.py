"""Single steps of a sweep, in this process: no Ray, the same run directory and the same artifacts."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raydistill.config import (
    Arm,
    arms,
    evidence_identity,
    n_student_layers,
    quality_metric,
    strata,
    teacher_identity,
)
from raydistill.config.expand import keep_ratio_problem
from raydistill.errors import ConfigError, CorruptArtifactError, RunDirectoryError, TrialDivergedError
from raydistill.models.onnx import check_packages
from raydistill.records import MODEL, RECORD, Record, RunDirectory, read_record
from raydistill.selectors import SELECTORS
from raydistill.training import build
from raydistill.training.card import write_student
from raydistill.training.context import RunContext, best_device
from raydistill.training.evidence_files import read_evidence
from raydistill.training.prepare import prepare_teacher, prepared_teacher
from raydistill.training.prepared import PreparedTeacher
from raydistill.training.resources import Resources
from raydistill.training.tasks import task_of
from raydistill.training.teach import describe_teacher, is_whole, read_history, teach, warn_if_weak
from raydistill.training.trial import Trial
from raydistill.training.trial_spec import POPULARITY, TEACHER, TrialSpec
from raydistill.tuning.directory import describe_run, open_run_directory
from raydistill.tuning.specs import configuration, confirm_seeds, student_fields, teacher_seeds

ONNX = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A student to be made by hand; what is None is as the sweep has it."""

    selector: str
    keep_ratio: float
    temperature: float | None = None
    alpha_dist: float | None = None
    seed: int | None = None


def data(resources: Resources) -> int:
    """Prepare the data, print what they are like, and return the exit code."""
    with _opened(resources):
        print("\n".join(resources.task.describe(resources.data)))
    return 0


def teacher(resources: Resources) -> int:
    """Train the sweep's teachers, unless they are there, and return the exit code."""
    sweep, metric = resources.sweep, quality_metric(resources.sweep)
    with _opened(resources):
        for seed in teacher_seeds(sweep):
            folder = resources.run.teacher(teacher_identity(sweep, resources.data.hash, seed))
            if is_whole(folder):
                print(f"the teacher of seed {seed} is there already: {folder}")
            else:
                teach(resources, seed, _context(resources))
                print(f"the teacher of seed {seed} is trained: {folder}")
            _say_how_good(folder, metric)
    return 0


def select(resources: Resources) -> int:
    """Measure the evidence on the sweep's teachers, print what each selector makes of it, and return the exit code."""
    with _opened(resources):
        for seed in teacher_seeds(resources.sweep):
            print("\n".join(_evidence_text(resources, _prepared(resources, seed))))
    return 0


def distill(resources: Resources, wanted: Wanted, output: Path) -> int:
    """Train and test one student of the first teacher, save it in ``output``, and return the exit code.

    Raises:
        ConfigError: The selector is no arm of the sweep, or the keep-ratio keeps nothing.
        RunDirectoryError: ``output`` holds something already.
        TrialDivergedError: Its loss or scores are no longer finite.
    """
    sweep, metric = resources.sweep, quality_metric(resources.sweep)
    arm = _arm(resources, wanted.selector)
    _must_be_free(output)
    with _whole_or_absent(output) as partial, _opened(resources):
        prepared = _prepared(resources, sweep.teacher.seed)
        spec = _spec(resources, arm, prepared, wanted)
        layers = ", ".join(map(str, spec.layer_map))
        print(f"student of layers {layers} of {prepared.n_layers} ({arm.name}), seed {spec.seed}")
        trial = Trial(spec, resources, _context(resources), folder=partial)
        for row in trial.epochs():
            print(f"  epoch {row['epoch']}: loss {row['loss']:.4f}, validation {metric} {row[metric]:.4f}")
        record = trial.finish()
        if record.status == "failed":
            raise TrialDivergedError(record.error)
        write_student(sweep, trial.model, partial / RECORD, record, resources.run, partial)
    # A metric may be defined in validation alone.
    measured = f"test {metric} {record.test[metric]:.4f}; " if metric in record.test else ""
    print(f"{measured}the student is in {output}")
    return 0


def export(trial: Path, output: Path, *, onnx: bool = False) -> int:
    """Write the student of a confirmed trial as a Hugging Face folder, and return the exit code.

    Args:
        trial: Its folder in a run directory.
        output: Folder to be made.
        onnx: Whether to write the model as ONNX as well.

    Raises:
        RunDirectoryError: The folder is no trial's, its weights were not kept, or ``output`` holds something already
            or cannot be written.
        UserError: A package that ONNX needs is missing.
        ModelError: The model cannot be expressed in ONNX.
    """
    run = RunDirectory(trial.resolve().parent.parent)
    if not (trial / RECORD).is_file():
        raise RunDirectoryError(
            f"this folder holds no {RECORD}", where=str(trial), mend="give a folder of RUN_DIR/trials/"
        )
    record = read_record(trial / RECORD)
    if not (trial / MODEL).is_dir():
        raise RunDirectoryError(
            f"there are no weights of {record.name}: {_why_there_are_none(record)}",
            where=str(trial),
            mend=_how_to_get(record, run),
        )
    _must_be_free(output)
    if onnx:
        check_packages()
    sweep = build.load_sweep(run.sweep_file)
    model = task_of(sweep).load(trial / MODEL)
    with _whole_or_absent(output) as partial:
        write_student(sweep, model, trial / RECORD, record, run, partial)
        if onnx:
            task_of(sweep).export_onnx(model, partial / ONNX)
    print(f"{record.name} is in {output}")
    return 0


@contextlib.contextmanager
def _opened(resources: Resources) -> Iterator[None]:
    """Hold the run directory, with the description of its data in it."""
    with open_run_directory(resources.run, resources.sweep, fresh=False):
        describe_run(resources.run, resources.sweep, resources.data)
        yield


def _context(resources: Resources) -> RunContext:
    return RunContext(device=best_device(), graphs=resources.sweep.execution.cuda_graphs)


def _prepared(resources: Resources, seed: int) -> PreparedTeacher:
    identity = prepare_teacher(resources, seed, _context(resources))
    prepared = prepared_teacher(resources, identity)
    if prepared is None:
        raise CorruptArtifactError("the teacher was made, but not all of it is there", where=str(resources.run.root))
    _say_how_good(resources.run.teacher(identity), quality_metric(resources.sweep))
    return prepared


def _say_how_good(folder: Path, metric: str) -> None:
    history = read_history(folder)
    print(describe_teacher(folder.name, history, metric))
    warning = warn_if_weak(history, metric)
    if warning:
        print(f"WARNING: {warning}", file=sys.stderr)


def _arm(resources: Resources, name: str) -> Arm:
    found = {arm.name: arm for arm in arms(resources.sweep) if arm.selector is not None}
    if name not in found:
        raise ConfigError(
            f"no selector of this sweep is called {name!r}",
            where="--selector",
            mend=f"one of {', '.join(found)}; others are to be added to selectors in the sweep file",
        )
    return found[name]


def _spec(resources: Resources, arm: Arm, prepared: PreparedTeacher, wanted: Wanted) -> TrialSpec:
    sweep = resources.sweep
    problem = keep_ratio_problem(wanted.keep_ratio, prepared.n_layers)
    if problem:
        raise ConfigError(f"the keep-ratio {wanted.keep_ratio:g} {problem}", where="--keep-ratio")
    stratum = (n_student_layers(wanted.keep_ratio, prepared.n_layers), wanted.keep_ratio)
    chosen = {"temperature": wanted.temperature, "alpha_dist": wanted.alpha_dist}
    draw = 0 if SELECTORS[arm.selector].stochastic else None
    return TrialSpec(
        phase="confirm",
        number=0,
        seed=confirm_seeds(sweep)[0] if wanted.seed is None else wanted.seed,
        configuration=configuration(sweep, {name: value for name, value in chosen.items() if value is not None}),
        **student_fields(sweep, arm, prepared, stratum, "confirm", draw),
    )


def _must_be_free(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunDirectoryError(
            "there is something at the place of the output", where=str(output), mend="give a new or an empty folder"
        )


@contextlib.contextmanager
def _whole_or_absent(output: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``output`` when the block ends without error, and is gone otherwise.

    It lies beside ``output``, or inside where that is there already: a mount point could not be replaced.
    """
    output = output.resolve()
    is_there = output.is_dir()
    partial = (output if is_there else output.parent) / f".{output.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if is_there:
            for path in sorted(partial.iterdir()):
                path.rename(output / path.name)
        else:
            partial.rename(output)
    except OSError as error:
        raise RunDirectoryError(
            f"the output cannot be written: {error}",
            where=str(output),
            mend="free some space, or give a folder that may be written",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _why_there_are_none(record: Record) -> str:
    if record.phase == "search":
        return "only confirm trials keep theirs"
    if record.arm == POPULARITY:
        return "it counts interactions and has none"
    return "sweeps keep the teacher once" if record.arm == TEACHER else "sweeps keep no models unless told to"


def _how_to_get(record: Record, run: RunDirectory) -> str:
    if record.phase == "search":
        return _confirmed_in_its_place(record, run)
    if record.arm == POPULARITY:
        return "popularity has no weights: the counts are the column popularity of data/items.parquet"
    if record.arm == TEACHER:
        return f"take {run.teacher(record.teacher)}, which is a Hugging Face folder"
    again = "run the sweep with --set execution.keep_models=true in a new run directory"
    if record.kind != "selector" or not _can_be_asked_for(record, run):
        return again
    options = f"--selector {record.arm} --keep-ratio {record.keep_ratio:g} --seed {record.seed}"
    for name in ("temperature", "alpha_dist"):
        options += f" --{name.replace('_', '-')} {record.configuration[name]!r}"
    return f"{again}, or train such a student by\n         python -m raydistill distill FILE {options} --output DIR"


def _confirmed_in_its_place(record: Record, run: RunDirectory) -> str:
    """Return which trials of a search trial's arm and keep-ratio may be exported."""
    found = [
        f"{path.parent} (seed {other.seed})"
        for path, other in run.records()
        if isinstance(other, Record)
        and (other.phase, other.status) == ("confirm", "success")
        and (other.arm, other.keep_ratio) == (record.arm, record.keep_ratio)
    ]
    if not found:
        return f"let the sweep go on: no trial of {record.arm} is confirmed at keep-ratio {record.keep_ratio:g} so far"
    return "\n         ".join([f"export a confirm trial of {record.arm} at keep-ratio {record.keep_ratio:g}:", *found])


def _can_be_asked_for(record: Record, run: RunDirectory) -> bool:
    """Return whether the options of ``raydistill distill`` say everything that makes this student what it is."""
    configuration = record.configuration
    by_default = {"alpha_hidden": 0.0, "alpha_task": 1.0 - configuration["alpha_dist"]}
    return (
        set(configuration) == {"temperature", "alpha_dist", *by_default}
        and all(math.isclose(configuration[name], value, abs_tol=1e-12) for name, value in by_default.items())
        and not record.draw
        and record.teacher_seed == build.load_sweep(run.sweep_file).teacher.seed
    )


def _evidence_text(resources: Resources, prepared: PreparedTeacher) -> Iterator[str]:
    """Yield the lines of two tables: scores by layer, and what is made of them."""
    sweep = resources.sweep
    evidence, content = read_evidence(resources.run.evidence(evidence_identity(sweep, prepared.id)))
    chosen = [arm for arm in arms(sweep) if arm.selector is not None]
    yield (
        f"\nscores by layer, mean (standard error) over {content['replicates']} samples of {content['samples']} "
        "training examples"
    )
    layers = range(prepared.n_layers)
    yield from _aligned([["selector", *map(str, layers)], *(_scores(arm, evidence.values, layers) for arm in chosen)])
    places = strata(sweep, prepared.n_layers)
    yield "\nlayers kept, deepest quarter over shallowest, agreement between samples (Kendall's tau), cost"
    header = ["selector", *(f"keep {ratio:g}" for _, ratio in places), "depth", "stability", "seconds"]
    yield from _aligned([header, *(_choices(arm, content, places) for arm in chosen)])


def _scores(arm: Arm, values: dict[str, np.ndarray], layers: range) -> list[str]:
    scores = SELECTORS[arm.selector].scores(values, arm.params)
    if scores is None:
        return [arm.name, *("-" for _ in layers)]
    mean = scores.mean(axis=0)
    if len(scores) == 1:
        return [arm.name, *(f"{mean[layer]:.3g}" for layer in layers)]
    error = scores.std(axis=0, ddof=1) / np.sqrt(len(scores))
    return [arm.name, *(f"{mean[layer]:.3g} ({error[layer]:.2g})" for layer in layers)]


def _choices(arm: Arm, content: dict, places: Sequence[tuple[int, float]]) -> list[str]:
    summary = content["selectors"][arm.name]
    maps = content["layer_maps"].get(arm.name)
    kept = [" ".join(map(str, maps[str(depth)])) if maps else "drawn" for depth, _ in places]
    depth = summary["depth_concentration"]
    ratio = _number(depth["mean"])
    if depth["standard_error"] is not None:
        ratio += f" ({depth['standard_error']:.2g})"
    return [arm.name, *kept, ratio, _number(summary["stability"]), f"{summary['seconds']:.2f}"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
