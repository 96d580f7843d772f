"""The trials that a sweep consists of, as specs: one function a kind of trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.random import Generator

from raydistill.config import Arm, Sweep, quality_metric
from raydistill.records import Record, gain
from raydistill.seeding import stream
from raydistill.selectors import SELECTORS
from raydistill.training.prepared import PreparedTeacher
from raydistill.training.trial_spec import FROM_TEACHER, POPULARITY, RANDOM, TEACHER, TrialSpec
from raydistill.tuning.early_stopping import thresholds
from raydistill.tuning.suggest import suggest

Stratum = tuple[int, float]
"""Number of student layers, and the keep-ratio that gives it."""


def configuration(sweep: Sweep, searched: Mapping[str, Any]) -> dict[str, Any]:
    """Return a whole configuration: what is searched, then the fixed values of ``distillation``.

    ``alpha_task`` is 1 - ``alpha_dist`` where it is given nowhere.
    """
    fixed = sweep.distillation
    result = {
        "temperature": fixed.temperature,
        "alpha_dist": fixed.alpha_dist,
        "alpha_task": fixed.alpha_task,
        "alpha_hidden": fixed.alpha_hidden,
    } | dict(searched)
    if result["alpha_task"] is None:
        result["alpha_task"] = 1.0 - result["alpha_dist"]
    return result


def task_only(sweep: Sweep) -> dict[str, Any]:
    """Return the configuration of a control without distillation: it has no temperature and no alphas."""
    return dict.fromkeys(("temperature", "alpha_dist", "alpha_task", "alpha_hidden"))


def search_specs(
    sweep: Sweep,
    arm: Arm,
    teacher: PreparedTeacher,
    strata: Sequence[Stratum],
    numbers: Sequence[int],
    earlier: Sequence[Record],
) -> list[TrialSpec]:
    """Return search trials of an arm that are suggested together.

    Args:
        sweep: The sweep.
        arm: The arm.
        teacher: The teacher that is searched under.
        strata: They take turns by number, so every arm spends as much on each.
        numbers: Numbers of the trials in their arm.
        earlier: The arm's trials of earlier groups.
    """
    metric = quality_metric(sweep)
    stop_below = {stratum: _stop_below(sweep, stratum, earlier, metric) for stratum in strata}
    is_drawn = arm.selector is not None and SELECTORS[arm.selector].stochastic
    specs = []
    for number, searched in zip(numbers, suggest(sweep, numbers, earlier, metric), strict=True):
        stratum = strata[number % len(strata)]
        specs.append(
            TrialSpec(
                phase="search",
                number=number,
                seed=sweep.search.seed,
                configuration=configuration(sweep, searched),
                stop_below=stop_below[stratum],
                **student_fields(sweep, arm, teacher, stratum, "search", number if is_drawn else None),
            )
        )
    return specs


def _stop_below(sweep: Sweep, stratum: Stratum, earlier: Sequence[Record], metric: str) -> dict[int, float]:
    if sweep.search.early_stopping != "asha":
        return {}
    return thresholds(
        [record for record in earlier if record.n_student_layers == stratum[0] and record.status != "failed"],
        metric,
        grace=sweep.search.grace,
        reduction=sweep.search.reduction,
        epochs=sweep.training.epochs,
    )


def confirm_specs(
    sweep: Sweep,
    arms: Sequence[Arm],
    strata: Sequence[Stratum],
    teachers: Sequence[PreparedTeacher],
    searched: Mapping[str, Sequence[Record]],
) -> Iterator[TrialSpec]:
    """Yield every confirm trial: fresh seeds, each arm's best configurations, the controls.

    Seeds are in the outer loop, so that a sweep cut short has whole comparisons of fewer seeds.

    Args:
        sweep: The sweep.
        arms: Its arms.
        strata: Its strata.
        teachers: Independently trained teachers; each has layer maps from its own evidence.
        searched: Search records by arm.
    """
    metric = quality_metric(sweep)
    for teacher in teachers:
        for arm in arms:
            if arm.name in (TEACHER, POPULARITY) and (arm.name == TEACHER or teacher is teachers[0]):
                yield TrialSpec(
                    phase="confirm", arm=arm.name, kind="control", number=0, seed=teacher.seed, start=arm.name,
                    **_of_teacher(teacher),
                )  # fmt: skip
        for seed in confirm_seeds(sweep):
            for stratum in strata:
                for arm in arms:
                    if arm.in_strata:
                        yield from _confirm_arm(sweep, arm, arms, teacher, stratum, seed, searched, metric)


def teacher_seeds(sweep: Sweep) -> range:
    """Return the seeds of the teachers; the search is under the first."""
    return range(sweep.teacher.seed, sweep.teacher.seed + sweep.confirm.teachers)


def confirm_seeds(sweep: Sweep) -> range:
    """Return the seeds of confirm, none of which the search has used."""
    first = sweep.search.seed + 1
    return range(first, first + sweep.confirm.seeds)


def _confirm_arm(
    sweep: Sweep,
    arm: Arm,
    arms: Sequence[Arm],
    teacher: PreparedTeacher,
    stratum: Stratum,
    seed: int,
    searched: Mapping[str, Sequence[Record]],
    metric: str,
) -> Iterator[TrialSpec]:
    if arm.has_study:
        settings = [record.configuration for record in best(searched[arm.name], stratum, metric)]
        settings = settings[: sweep.confirm.configurations]
    else:
        settings = [task_only(sweep)]
    source = arm
    if arm.name == "no_kd":
        # Does distillation matter? Asked of the layers that look best on validation data, and answered by
        # setting these students against the distilled ones of the same layers.
        source = best_selector(arms, searched, stratum, metric)
        if source is None:
            return
    is_drawn = source.selector is not None and SELECTORS[source.selector].stochastic
    # Where nothing is drawn, or for no_kd's one set of drawn layers, `student_fields` finds them itself.
    layer_maps = drawn_layers(sweep, source, teacher, stratum[0]) if is_drawn and arm is source else [None]
    for rank, setting in enumerate(settings):
        for draw, layers in enumerate(layer_maps):
            student = student_fields(sweep, source, teacher, stratum, "confirm", draw if is_drawn else None, layers)
            yield TrialSpec(
                phase="confirm",
                number=rank,
                seed=seed,
                configuration=setting,
                **student | {"arm": arm.name, "kind": arm.kind},
            )


def best(records: Sequence[Record], stratum: Stratum, metric: str) -> list[Record]:
    """Return an arm's successful trials of a stratum, best validation metric first."""
    trials = [record for record in records if record.status == "success" and record.n_student_layers == stratum[0]]
    return sorted(trials, key=lambda record: (-gain(metric, record.validation[metric]), record.number))


def best_selector(
    arms: Sequence[Arm], searched: Mapping[str, Sequence[Record]], stratum: Stratum, metric: str
) -> Arm | None:
    """Return the selector arm with the best validation metric in a stratum, or None where no trial succeeded.

    One that draws its layers is returned only where there is no other: its confirm trials have other layers than the
    search trial that looked best, so that they would be the layers of no selector.
    """
    tops = [(arm, best(searched[arm.name], stratum, metric)) for arm in arms if arm.selector is not None]
    tops = [
        (not SELECTORS[arm.selector].stochastic, gain(metric, trials[0].validation[metric]), arm)
        for arm, trials in tops
        if trials
    ]
    return max(tops, key=lambda top: top[:2])[2] if tops else None


def drawn_layers(sweep: Sweep, arm: Arm, teacher: PreparedTeacher, depth: int) -> list[tuple[int, ...]]:
    """Return the layer maps that confirm trains of an arm whose layers are drawn, all different.

    Each draw keeps the first set that its own generator gives, unless an earlier draw has that; it then goes on to a
    set that is nobody's. So draws that differ anyway are what they would be without this rule.
    """
    generators = [_layer_stream(sweep, "confirm", draw, depth) for draw in range(arm.n_draws(depth, teacher.n_layers))]
    first = [teacher.layers(arm, depth, generator) for generator in generators]
    taken, found = set(first), []
    for layers, generator in zip(first, generators, strict=True):
        if layers in found:
            while layers in taken:
                layers = teacher.layers(arm, depth, generator)
            taken.add(layers)
        found.append(layers)
    return found


def _layer_stream(sweep: Sweep, phase: str, draw: int | None, depth: int) -> Generator:
    return stream(sweep.search.seed, "layers", phase, draw or 0, depth)


def student_fields(
    sweep: Sweep,
    arm: Arm,
    teacher: PreparedTeacher,
    stratum: Stratum,
    phase: str,
    draw: int | None,
    layer_map: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """Return the fields of a student: of selected layers for a selector, of random weights for a control.

    Args:
        sweep: The sweep.
        arm: The arm.
        teacher: The teacher that the layers are of.
        stratum: Depth and keep-ratio.
        phase: ``search`` or ``confirm``.
        draw: Number of the draw, where the arm's layers are drawn.
        layer_map: The layers, where they are known already.
    """
    depth, keep_ratio = stratum
    fields: dict[str, Any] = {
        "arm": arm.name,
        "kind": arm.kind,
        "start": RANDOM,
        "n_student_layers": depth,
        "keep_ratio": keep_ratio,
        **_of_teacher(teacher),
    }
    if arm.selector is None:
        return fields
    if layer_map is None:
        layer_map = teacher.layers(arm, depth, _layer_stream(sweep, phase, draw, depth))
    return fields | {
        "start": FROM_TEACHER,
        "layer_map": layer_map,
        "draw": draw,
        "evidence": teacher.evidence_id,
        "evidence_seconds": teacher.evidence_seconds(arm),
    }


def _of_teacher(teacher: PreparedTeacher) -> dict[str, Any]:
    return {"teacher": teacher.id, "teacher_seed": teacher.seed, "n_teacher_layers": teacher.n_layers}
