"""What trials consist of: layer maps from each teacher's own evidence, draws, controls, counts."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from tuning_zoo import METRIC, dealer_of, invented_record, invented_teacher, play, small_sweep

from raydistill.config import arms, strata
from raydistill.seeding import stream
from raydistill.selectors import SELECTORS
from raydistill.tuning.specs import best, best_selector, configuration, confirm_specs, drawn_layers, search_specs

NOTHING = {"temperature": None, "alpha_dist": None, "alpha_task": None, "alpha_hidden": None}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return small_sweep(tmp_path_factory.mktemp("sweep"), "confirm.teachers=2", "search.early_stopping=none")


@pytest.fixture(scope="module")
def played(sweep):
    dealer = dealer_of(sweep)
    play(dealer)
    return dealer


def test_a_configuration_is_what_is_searched_then_what_is_fixed(tmp_path):
    sweep = small_sweep(tmp_path, "distillation.alpha_hidden=0.5", "distillation.temperature=3")
    assert configuration(sweep, {"alpha_dist": 0.2, "lr": 0.01}) == {
        "temperature": 3.0,
        "alpha_dist": 0.2,
        "alpha_task": pytest.approx(0.8),
        "alpha_hidden": 0.5,
        "lr": 0.01,
    }
    fixed = small_sweep(tmp_path, "distillation.alpha_task=1.0")
    assert configuration(fixed, {"alpha_dist": 0.2})["alpha_task"] == 1.0


def test_confirm_has_every_job_and_no_other(sweep, played):
    counts = Counter((spec.teacher, spec.arm) for spec in played.confirm)
    for teacher in ("teacher0", "teacher1"):
        # 2 seeds x 2 strata, and 3 draws where layers are drawn.
        assert counts[teacher, "random"] == 12
        for arm in ("fisher", "uniform", "scratch", "scratch_kd", "no_kd"):
            assert counts[teacher, arm] == 4
        assert counts[teacher, "teacher"] == 1
    assert (counts["teacher0", "popularity"], counts["teacher1", "popularity"]) == (1, 0)
    assert sum(counts.values()) == 2 * (12 + 5 * 4 + 1) + 1
    assert len({played.identity(spec) for spec in played.confirm}) == len(played.confirm)


def test_layer_maps_come_from_the_evidence_of_each_teacher(sweep, played):
    for number in range(2):
        teacher = invented_teacher(sweep, number)
        fisher = next(arm for arm in arms(sweep) if arm.name == "fisher")
        (kind,) = SELECTORS["fisher"].needs(fisher.params)
        scores = teacher.evidence[kind].mean(axis=0)
        for spec in played.confirm:
            if (spec.arm, spec.teacher) == ("fisher", teacher.id):
                top = np.sort(np.argsort(-scores)[: spec.n_student_layers])
                assert spec.layer_map == tuple(top)
                assert spec.evidence == teacher.evidence_id
    maps = {(spec.teacher, spec.layer_map) for spec in played.confirm if spec.arm == "fisher"}
    assert len(maps) == 4  # two teachers with two depths each, all different


def test_random_layers_are_drawn_anew_by_search_trials_and_by_draws(sweep, played):
    searched = [record for record in played.searches["random"].records.values() if record.n_student_layers == 4]
    assert len({record.layer_map for record in searched}) == len(searched) == 3
    deep = [spec for spec in played.confirm if spec.arm == "random" and spec.n_student_layers == 4]
    by_draw = {draw: {spec.layer_map for spec in deep if spec.draw == draw} for draw in range(3)}
    # One draw is one set of layers, whatever the seed; another draw is another set.
    assert all(len(maps) == 1 for maps in by_draw.values())
    assert len(set.union(*by_draw.values())) == 3
    assert {record.layer_map for record in searched} != set.union(*by_draw.values())


@pytest.mark.parametrize(("depth", "n_layers", "draws"), [(1, 4, 3), (1, 4, 4), (1, 4, 9), (4, 6, 2), (4, 6, 15)])
def test_draws_are_different_sets_and_those_that_differed_stay(tmp_path, depth, n_layers, draws):
    sets = list(itertools.combinations(range(n_layers), depth))
    sweep = small_sweep(tmp_path, f"selectors=[{{name: random, draws: {draws}}}]", "analysis.reference=random")
    (arm,) = [arm for arm in arms(sweep) if arm.name == "random"]
    own = [stream(sweep.search.seed, "layers", "confirm", draw, depth) for draw in range(min(draws, len(sets)))]
    alone = [tuple(sorted(rng.choice(n_layers, depth, replace=False).tolist())) for rng in own]
    assert len(set(alone)) < len(alone)  # or there is nothing to mend
    found = drawn_layers(sweep, arm, invented_teacher(sweep, 0, n_layers), depth)
    assert len(found) == len(set(found)) == min(draws, len(sets))
    assert set(found) <= set(sets)
    for draw, layers in enumerate(alone):
        if layers not in alone[:draw]:
            assert found[draw] == layers


def test_confirm_uses_the_best_setting_of_the_arm_in_the_stratum_with_fresh_seeds(sweep, played):
    for spec in played.confirm:
        if spec.arm not in ("fisher", "uniform", "random", "scratch_kd"):
            continue
        rivals = [
            record
            for record in played.searches[spec.arm].records.values()
            if record.n_student_layers == spec.n_student_layers
        ]
        assert spec.configuration == max(rivals, key=lambda record: record.validation[METRIC]).configuration
        assert spec.seed not in {record.seed for record in rivals}
        assert spec.stop_below == {}


def test_controls_without_distillation_have_no_configuration(sweep, played):
    for arm in ("scratch", "no_kd"):
        specs = [spec for spec in played.confirm if spec.arm == arm]
        assert all(spec.configuration == NOTHING for spec in specs)
        assert {spec.start for spec in specs} == {"random" if arm == "scratch" else "teacher_layers"}
    assert all(spec.layer_map is None for spec in played.confirm if spec.arm in ("scratch", "scratch_kd"))
    assert all(spec.keep_ratio is None for spec in played.confirm if spec.arm in ("teacher", "popularity"))


def test_no_kd_has_the_layers_of_the_best_selector_of_its_stratum(played):
    for depth in (2, 4):
        tops = {
            arm: max(
                record.validation[METRIC]
                for record in played.searches[arm].records.values()
                if record.n_student_layers == depth
            )
            for arm in ("fisher", "uniform")
        }
        winner = max(tops, key=tops.get)
        for teacher in ("teacher0", "teacher1"):
            maps = {
                arm: {
                    spec.layer_map
                    for spec in played.confirm
                    if (spec.arm, spec.n_student_layers, spec.teacher) == (arm, depth, teacher)
                }
                for arm in ("no_kd", winner)
            }
            assert maps["no_kd"] == maps[winner]


def test_seeds_are_in_the_outer_loop_so_that_a_cut_leaves_whole_comparisons(sweep, played):
    seeds = [spec.seed for spec in played.confirm if spec.teacher == "teacher0" and spec.keep_ratio is not None]
    assert seeds == sorted(seeds)


def test_more_configurations_are_the_best_ones_in_order(tmp_path):
    sweep = small_sweep(tmp_path, "confirm.configurations=2", "search.early_stopping=none", "confirm.seeds=1")
    dealer = dealer_of(sweep)
    play(dealer)
    records = [record for record in dealer.searches["fisher"].records.values() if record.n_student_layers == 2]
    order = sorted(records, key=lambda record: -record.validation[METRIC])
    specs = [spec for spec in dealer.confirm if (spec.arm, spec.n_student_layers) == ("fisher", 2)]
    assert [spec.number for spec in specs] == [0, 1]
    assert [spec.configuration for spec in specs] == [record.configuration for record in order[:2]]
    # Without a study there is one setting only.
    assert Counter(spec.arm for spec in dealer.confirm)["scratch"] == 2


def test_stopped_and_failed_trials_are_never_confirmed(sweep):
    (spec,) = search_specs(sweep, arms(sweep)[0], invented_teacher(sweep), strata(sweep, 8), [0], ())
    good = invented_record(spec, sweep)
    stopped = type(good)(**vars(good) | {"status": "stopped", "validation": {METRIC: 99.0}})
    failed = type(good)(**vars(good) | {"status": "failed", "validation": {}})
    assert best([stopped, failed, good], (2, 0.25), METRIC) == [good]
    assert best([good], (4, 0.5), METRIC) == []


def test_without_any_selector_that_worked_there_is_no_layer_control(sweep):
    searched = {arm.name: [] for arm in arms(sweep)}
    assert best_selector(arms(sweep), searched, (2, 0.25), METRIC) is None
    specs = confirm_specs(sweep, arms(sweep), strata(sweep, 8), [invented_teacher(sweep)], searched)
    assert {spec.arm for spec in specs} == {"teacher", "popularity", "scratch"}


def test_drawn_layers_that_looked_best_are_not_those_of_the_layer_control(sweep):
    searched = {arm.name: [] for arm in arms(sweep)}
    for arm in arms(sweep)[:3]:
        (spec,) = search_specs(sweep, arm, invented_teacher(sweep), strata(sweep, 8), [0], ())
        quality = {"fisher": 0.2, "uniform": 0.3, "random": 0.9}[arm.name]
        searched[arm.name] = [replace(invented_record(spec, sweep), status="success", validation={METRIC: quality})]
    assert best_selector(arms(sweep), searched, (2, 0.25), METRIC).name == "uniform"
    alone = {name: trials if name == "random" else [] for name, trials in searched.items()}
    assert best_selector(arms(sweep), alone, (2, 0.25), METRIC).name == "random"
