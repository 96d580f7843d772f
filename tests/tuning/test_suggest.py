"""Suggestions: shared at the start, deterministic, inside the space, led by standing in the own stratum."""

from __future__ import annotations

import dataclasses

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from scipy import stats
from tuning_zoo import METRIC, dealer_of, play, small_sweep

from raydistill.seeding import stream, stream_seed
from raydistill.tuning import suggest as suggest_module
from raydistill.tuning.suggest import Studies, suggest


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return small_sweep(tmp_path_factory.mktemp("sweep"), "search.trials=12")


@pytest.fixture(scope="module")
def records(sweep):
    """All search records of one arm, of every status."""
    ended = play(dealer_of(sweep), failing={("fisher", 3)})
    own = [record for record in ended if (record.phase, record.arm) == ("search", "fisher")]
    assert {record.status for record in own} == {"success", "stopped", "failed"}
    return own


def ask(sweep, number, finished, metric):
    """Return what one trial is given, asked for alone."""
    (values,) = suggest(sweep, [number], finished, metric)
    return values


def configurations(records, number):
    return next(record.configuration for record in records if record.number == number)


def test_arms_share_their_first_configurations_and_then_learn_from_their_own(sweep):
    ended = play(dealer_of(sweep))
    of = {arm: [r for r in ended if (r.phase, r.arm) == ("search", arm)] for arm in ("fisher", "uniform", "scratch_kd")}
    for number in range(sweep.search.startup):
        assert configurations(of["fisher"], number) == configurations(of["uniform"], number)
        assert configurations(of["fisher"], number) == configurations(of["scratch_kd"], number)
    assert configurations(of["fisher"], 9) != configurations(of["uniform"], 9)


def test_the_first_ones_do_not_depend_on_results_and_later_ones_do(sweep, records):
    for number in range(sweep.search.startup):
        assert ask(sweep, number, records[:2], METRIC) == ask(sweep, number, (), METRIC)
    assert ask(sweep, 9, records[:8], METRIC) != ask(sweep, 9, (), METRIC)


def test_the_same_question_has_the_same_answer(sweep, records):
    np.random.seed(1)
    first = ask(sweep, 8, records, METRIC)
    np.random.seed(2)
    assert ask(sweep, 8, records, METRIC) == first


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_trials_asked_for_together_get_what_each_would_get_alone(tmp_path, records, sampler):
    """The oracle builds a study of its own for every trial, and counts standings by brute force."""
    sweep = small_sweep(tmp_path, "search.trials=12", f"search.sampler={sampler}")
    space = suggest_module.distributions(sweep)

    def value_of(record):
        stratum = [one for one in records if one.n_student_layers == record.n_student_layers]
        if record.status == "success":
            rivals = [one.validation[METRIC] for one in stratum if one.status == "success"]
            return np.mean([record.validation[METRIC] >= rival for rival in rivals])
        rivals = [one.curves[record.epochs - 1][METRIC] for one in stratum if one.epochs >= record.epochs]
        return np.mean([record.curves[-1][METRIC] >= rival for rival in rivals])

    def alone(number):
        seed = stream_seed(sweep.search.seed, "suggestion", number) % 2**32
        samplers = {
            "random": optuna.samplers.RandomSampler(seed=seed),
            "tpe": optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=sweep.search.startup, multivariate=True, constant_liar=False
            ),
        }
        study = optuna.create_study(direction="maximize", sampler=samplers[sampler])
        for record in records:
            params = {name: record.configuration[name] for name in space}
            common = {"params": params, "distributions": space}
            if record.status == "success":
                trial = create_trial(state=TrialState.COMPLETE, value=value_of(record), **common)
            elif record.status == "stopped":
                trial = create_trial(
                    state=TrialState.PRUNED, intermediate_values={record.epochs: value_of(record)}, **common
                )
            else:
                trial = create_trial(state=TrialState.FAIL, **common)
            study.add_trial(trial)
        return study.ask(space).params

    numbers = [12, 13, 14, 20]
    assert suggest(sweep, numbers, records, METRIC) == [alone(number) for number in numbers]
    assert suggest(sweep, numbers[::-1], records, METRIC) == [alone(number) for number in numbers[::-1]]


def test_random_suggestions_follow_the_distributions_that_the_sweep_names(sweep):
    drawn = [ask(sweep, number, (), METRIC) for number in range(300)]
    assert {tuple(values) for values in drawn} == {("temperature", "alpha_dist")}
    alpha = [values["alpha_dist"] for values in drawn]
    logarithm = np.log10([values["temperature"] for values in drawn])
    assert stats.kstest(alpha, "uniform").pvalue > 0.01
    assert stats.kstest(logarithm, "uniform").pvalue > 0.01
    assert abs(stats.spearmanr(alpha, logarithm).statistic) < 0.15


def test_every_kind_of_dimension_gives_values_of_its_own(tmp_path):
    space = "{keep_ratio: {choice: [0.5]}, temperature: {int: [2, 4]}, lr: {choice: [1.0e-3, 1.0e-2]}}"
    sweep = small_sweep(tmp_path, f"search.space={space}")
    drawn = [ask(sweep, number, (), METRIC) for number in range(60)]
    assert {values["temperature"] for values in drawn} == {2, 3, 4}
    assert {values["lr"] for values in drawn} == {1e-3, 1e-2}


def test_a_space_of_keep_ratio_alone_asks_for_nothing(tmp_path):
    sweep = small_sweep(tmp_path, "search.space={keep_ratio: {choice: [0.25, 0.5]}}")
    assert ask(sweep, 0, (), METRIC) == {}
    assert len(play(dealer_of(sweep))) > 0


def test_standing_is_the_share_of_the_own_stratum_that_is_equalled_or_beaten(records):
    def record(depth, value, *, status="success", curve=()):
        return dataclasses.replace(
            records[0], n_student_layers=depth, status=status, validation={METRIC: value},
            epochs=len(curve), curves=tuple({METRIC: one} for one in curve),
        )  # fmt: skip

    shallow = [record(2, 0.1, curve=[0.0, 0.1]), record(2, 0.2, curve=[0.2, 0.2]), record(2, 0.2, curve=[0.15, 0.2])]
    deep = [record(4, 0.9, curve=[0.8, 0.9])]
    stopped = record(2, 0.16, status="stopped", curve=[0.16])
    everyone = [*shallow, *deep, stopped]
    standing = suggest_module.standings(everyone, METRIC)
    # Among 0.1, 0.2, 0.2; alone; and, after one epoch, 0.16 among 0.0, 0.2, 0.15 and itself.
    assert standing == pytest.approx([1 / 3, 1, 1, 1, 3 / 4])


def test_how_good_deep_students_are_as_such_changes_no_suggestion(sweep, records):
    raised = [
        dataclasses.replace(
            record,
            validation={METRIC: record.validation[METRIC] + 7.0},
            curves=tuple({**row, METRIC: row[METRIC] + 7.0} for row in record.curves),
        )
        if record.n_student_layers == 4
        else record
        for record in records
    ]
    assert ask(sweep, 12, raised, METRIC) == ask(sweep, 12, records, METRIC)


def test_suggestions_move_towards_what_was_good(sweep, records):
    """Twenty trials whose quality falls with the distance of the temperature from 2 (in its logarithm)."""
    space = suggest_module.distributions(sweep)
    earlier = []
    for number in range(20):
        rng = stream(0, "told", number)
        configuration = {name: float(rng.uniform(one.low, one.high)) for name, one in space.items()}
        value = 1 - abs(np.log(configuration["temperature"] / 2))
        earlier.append(
            dataclasses.replace(
                records[0], status="success", number=number, n_student_layers=2 + 2 * (number % 2),
                configuration=configuration, validation={METRIC: value},
            )
        )  # fmt: skip

    def distance(finished):
        asked = [ask(sweep, number, finished, METRIC)["temperature"] for number in range(100, 130)]
        return np.median(np.abs(np.log(np.array(asked) / 2)))

    assert distance(earlier) < 0.7 * distance(())


def test_studies_open_in_optuna_with_states_and_values(sweep, records, tmp_path):
    studies = Studies(tmp_path, sweep, [0.25, 0.5])
    studies.start("fisher", records[:4])
    for record in records[4:]:
        studies.add(record)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "fisher.log")))
    study = optuna.load_study(study_name="fisher", storage=storage)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == [METRIC, "backbone_parameters"]
    states = {"success": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
    assert len(study.trials) == len(records)
    for trial, record in zip(study.trials, records, strict=True):
        assert trial.state == states[record.status]
        assert trial.params == {
            "temperature": record.configuration["temperature"],
            "alpha_dist": record.configuration["alpha_dist"],
            "keep_ratio": record.keep_ratio,
        }
        expected = [record.validation[METRIC], record.cost["backbone_parameters"]]
        assert trial.values == (expected if record.status == "success" else None)
        assert trial.intermediate_values == {row["epoch"]: row[METRIC] for row in record.curves}
        assert trial.user_attrs["record"] == record.id


def test_starting_a_study_again_does_not_double_its_trials(sweep, records, tmp_path):
    for _ in range(2):
        Studies(tmp_path, sweep, [0.25, 0.5]).start("fisher", records)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "fisher.log")))
    assert len(optuna.load_study(study_name="fisher", storage=storage).trials) == len(records)
