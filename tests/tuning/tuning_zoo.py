"""A small sweep, invented teachers and invented results, for the tests of the search: nothing is trained here."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import numpy as np

from raydistill.config import Sweep, arms
from raydistill.records import Record
from raydistill.seeding import stream
from raydistill.selectors import SELECTORS
from raydistill.training import build
from raydistill.training.prepared import PreparedTeacher
from raydistill.training.trial_spec import TrialSpec
from raydistill.tuning.dealer import Dealer

METRIC = "ndcg@10"

TEXT = """\
name: small
task: next_item
data: {source: synthetic, n_users: 60, n_items: 60, n_genres: 4, shortest: 6, longest: 9, hops: 1,
       min_interactions: 1, max_length: 8}
teacher: {family: gpt2, layers: 8, hidden: 8, heads: 2, epochs: 2}
selectors: [fisher, uniform, {name: random, draws: 3}]
controls: [teacher, popularity, scratch, scratch_kd, no_kd]
evidence: {samples: 16, replicates: 2}
training: {epochs: 9, batch_size: 32}
search:
  trials: 6
  startup: 3
  per_arm: 2
  space:
    temperature: {log_uniform: [1, 10]}
    alpha_dist: {uniform: [0, 1]}
    keep_ratio: {choice: [0.25, 0.5]}
confirm: {seeds: 2}
analysis: {margin: 0.02}
"""


def small_sweep(folder: Path, *overrides: str, text: str = TEXT) -> Sweep:
    """Return the small sweep, with overrides."""
    file = folder / "small.yaml"
    file.write_text(text)
    return build.load_sweep(file, overrides)


def invented_teacher(sweep: Sweep, number: int = 0, n_layers: int = 8) -> PreparedTeacher:
    """Return a teacher with evidence of its own."""
    chosen = [arm for arm in arms(sweep) if arm.selector is not None]
    kinds = sorted({kind for arm in chosen for kind in SELECTORS[arm.selector].needs(arm.params)})
    rng = np.random.default_rng(number)
    return PreparedTeacher(
        id=f"teacher{number}",
        seed=sweep.teacher.seed + number,
        n_layers=n_layers,
        evidence_id=f"evidence{number}",
        evidence={kind: rng.random((2, n_layers)) for kind in kinds},
        evidence_cost={arm.name: 1.5 for arm in chosen},
        profile={},
        validation={METRIC: 0.5},
        popularity={METRIC: 0.1},
    )


def dealer_of(sweep: Sweep, records: Iterable[Record] = ()) -> Dealer:
    """Return a dealer under invented teachers."""
    teachers = [invented_teacher(sweep, number, sweep.teacher.layers) for number in range(sweep.confirm.teachers)]
    return Dealer(sweep, "datahash", teachers, list(records))


def invented_record(spec: TrialSpec, sweep: Sweep, *, fails: bool = False) -> Record:
    """Return what a trial would come to: a curve that depends on the spec alone, stopped where the spec says."""
    epochs = sweep.training.epochs if spec.start in ("teacher_layers", "random") else 0
    own = json.dumps([spec.arm, spec.number, spec.seed, spec.draw, spec.configuration], sort_keys=True)
    quality = stream(0, "quality", own).random() + 0.5 * (spec.n_student_layers or 0)
    curves, status = [], "success"
    for epoch in range(1, epochs + 1):
        curves.append({"epoch": epoch, METRIC: quality * epoch / epochs})
        if epoch in spec.stop_below and not curves[-1][METRIC] > spec.stop_below[epoch]:
            status = "stopped"
            break
    if fails:
        status, curves = "failed", curves[:1]
    return record_of(spec, sweep, status=status, curves=curves)


def record_of(spec: TrialSpec, sweep: Sweep, *, status: str = "success", curves: list[dict] | None = None) -> Record:
    """Return a record of a spec with a given outcome."""
    curves = curves or []
    shared = set(Record.__dataclass_fields__) & set(TrialSpec.__dataclass_fields__)
    return Record(
        id=spec.identity(sweep, "datahash"),
        name=spec.name,
        sweep=sweep.name,
        status=status,
        error="it broke" if status == "failed" else None,
        epochs=len(curves),
        curves=tuple(curves),
        validation={METRIC: curves[-1][METRIC]} if curves and status != "failed" else {METRIC: 0.3},
        cost={"backbone_parameters": 100 * (spec.n_student_layers or 0)},
        **{name: getattr(spec, name) for name in shared},
    )


def play(
    dealer: Dealer,
    *,
    slots: int = 3,
    choose: Callable[[int], int] = lambda n: 0,
    stop_after: int | None = None,
    failing: Collection[tuple[str, int]] = (),
) -> list[Record]:
    """Run a dealer's trials in ``slots`` slots and return the records that ended, in their order.

    Args:
        dealer: Deals the trials.
        slots: Trials that run at once.
        choose: Which of n running trials ends next.
        stop_after: The run is killed when so many have ended; what runs then is lost.
        failing: Arms and numbers of search trials that fail.
    """
    running: list[TrialSpec] = []
    ended: list[Record] = []
    while stop_after is None or len(ended) < stop_after:
        for spec in itertools.takewhile(lambda spec: spec is not None, iter(dealer.next, None)):
            running.append(spec)
            if len(running) == slots:
                break
        if not running:
            assert dealer.is_exhausted, "the dealer has nothing to deal and waits for nothing"
            break
        spec = running.pop(choose(len(running)))
        fails = spec.phase == "search" and (spec.arm, spec.number) in failing
        record = invented_record(spec, dealer.sweep, fails=fails)
        dealer.finished(record)
        ended.append(record)
    return ended


def outline(records: Iterable[Record]) -> list[str]:
    """Return what was dealt, in an order of its own."""
    return sorted(
        json.dumps([r.phase, r.arm, r.number, r.seed, r.draw, r.keep_ratio, r.layer_map, r.configuration, r.teacher])
        for r in records
    )
