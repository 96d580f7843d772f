"""One trial from a spec to its record: every family, every kind of start, and every way to end."""

from __future__ import annotations

import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch
from job_zoo import METRIC, prepared_in, resources_in, spec_of, whole_model

from raydistill.data.batches import evaluation_users
from raydistill.errors import TrialDivergedError
from raydistill.models.recommender import Recommender
from raydistill.records import MODEL, metric_per_user, read_ranks, read_record
from raydistill.seeding import stream_seed
from raydistill.training import loop
from raydistill.training.context import RunContext
from raydistill.training.tasks import NEXT_ITEM, next_item
from raydistill.training.trial import Trial, loss_weights
from raydistill.training.trial_spec import failed_record


def run(spec, resources, **arguments):
    trial = Trial(spec, resources, **arguments)
    for _ in trial.epochs():
        pass
    return trial, trial.finish()


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    return resources_in(tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def teacher(resources):
    return prepared_in(resources)


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "t5"])
def test_a_whole_path_from_teacher_to_record(family, tmp_path):
    resources = resources_in(tmp_path, f"teacher.family={family}")
    teacher = prepared_in(resources)
    spec = spec_of(resources, teacher, "fisher", temperature=3.0)
    trial, record = run(spec, resources)
    assert read_record(resources.run.record_file(trial.id)) == record
    assert (record.status, record.error, record.phase, record.arm) == ("success", None, "confirm", "fisher")
    assert (record.n_teacher_layers, record.n_student_layers) == (4, 2)
    assert record.layer_map == spec.layer_map
    assert trial.model.n_layers == 2
    assert record.epochs == len(record.curves) == 2
    assert all(math.isfinite(row["loss"]) and row["distillation_loss"] > 0 for row in record.curves)
    best = max(record.curves, key=lambda row: row[METRIC])
    assert record.validation == {name: best[name] for name in record.validation}
    assert record.configuration["temperature"] == 3.0
    n_parameters = sum(parameter.numel() for parameter in trial.model.parameters())
    assert record.cost["parameters"] == n_parameters
    assert 0 < record.cost["backbone_parameters"] < n_parameters
    assert record.cost["evidence_seconds"] == teacher.evidence_cost["fisher"] > 0
    measured = teacher.profile["depths"]["2"]
    assert (record.cost["flops"], record.cost["latency_ms"]) == (measured["flops"], measured["latency_ms"])
    seconds = sum(record.cost[f"{part}_seconds"] for part in ("training", "evaluation", "overhead"))
    assert seconds <= record.finished - record.started + 0.01
    assert min(record.cost[f"{part}_seconds"] for part in ("training", "evaluation")) > 0
    ranks = read_ranks(resources.run.ranks_file(trial.id), sha256=record.ranks_sha256)
    assert list(ranks["user"]) == list(evaluation_users(resources.data, "test"))
    for name, value in record.test.items():
        assert value == pytest.approx(metric_per_user(name, ranks["rank"]).mean())


def test_search_sees_no_test_target(resources, teacher, monkeypatch):
    parts = []
    original = next_item.rank_users

    def rank_users(model, data, part, **arguments):
        parts.append(part)
        return original(model, data, part, **arguments)

    monkeypatch.setattr(next_item, "rank_users", rank_users)
    trial, record = run(spec_of(resources, teacher, phase="search", seed=0), resources)
    assert parts == ["validation"] * 2
    assert record.test is None
    assert record.ranks_sha256 is None
    assert not resources.run.ranks_file(trial.id).exists()


def test_a_trial_that_is_not_above_its_threshold_stops_after_that_epoch(resources, teacher):
    _, record = run(spec_of(resources, teacher, phase="search", stop_below={1: 2.0}), resources)
    assert (record.status, record.epochs, len(record.curves)) == ("stopped", 1, 1)
    assert record.validation[METRIC] == record.curves[0][METRIC]
    low = spec_of(resources, teacher, phase="search", stop_below={1: -1.0})
    assert run(low, resources)[1].status == "success"
    # Exactly the threshold is not above it.
    equal = spec_of(resources, teacher, phase="search", stop_below={1: record.curves[0][METRIC]})
    assert run(equal, resources)[1].status == "stopped"


def test_a_trial_resumed_after_an_epoch_has_the_record_of_an_unbroken_one(resources, teacher, tmp_path):
    def copy(row, folder):
        shutil.copytree(folder, tmp_path / f"after {row['epoch']}")

    spec = spec_of(resources, teacher, seed=31)
    saving = RunContext(report=copy, checkpoint_folder=tmp_path / "checkpoint")
    unbroken = run(spec, resources, context=saving, folder=tmp_path / "unbroken")[1]
    for epoch in (1, 2):
        resuming = RunContext(resume_from=tmp_path / f"after {epoch}")
        _, record = run(spec, resources, context=resuming, folder=tmp_path / f"resumed {epoch}")
        assert (record.status, record.epochs) == ("success", 2)
        assert record.curves[:epoch] == unbroken.curves[:epoch]
        assert (record.validation, record.test) == (unbroken.validation, unbroken.test)
        assert record.ranks_sha256 == unbroken.ranks_sha256
        assert record.cost["training_seconds"] > 0


def test_the_overhead_of_a_resumed_trial_is_that_of_its_own_process(resources, teacher, tmp_path, monkeypatch):
    spec = spec_of(resources, teacher, seed=33)
    run(spec, resources, context=RunContext(checkpoint_folder=tmp_path / "checkpoint"), folder=tmp_path / "first")
    load = loop.load_checkpoint

    def after_long(folder):
        tensors, state = load(folder)
        return tensors, state | {"training_seconds": 5000.0, "evaluation_seconds": 500.0}

    monkeypatch.setattr(loop, "load_checkpoint", after_long)
    resuming = RunContext(resume_from=tmp_path / "checkpoint")
    _, record = run(spec, resources, context=resuming, folder=tmp_path / "resumed")
    assert record.cost["training_seconds"] == 5000
    assert record.cost["evaluation_seconds"] > 500  # the test set is ranked in this process
    assert 0 < record.cost["overhead_seconds"] <= record.finished - record.started + 0.01


def test_a_trial_lost_before_its_threshold_was_asked_stops_when_it_is_resumed(resources, teacher, tmp_path):
    spec = spec_of(resources, teacher, phase="search", seed=32, stop_below={1: 2.0})
    saving = RunContext(checkpoint_folder=tmp_path / "checkpoint")
    _, stopped = run(spec, resources, context=saving, folder=tmp_path / "stopped")
    resuming = RunContext(resume_from=tmp_path / "checkpoint")
    _, record = run(spec, resources, context=resuming, folder=tmp_path / "resumed")
    assert (record.status, record.curves) == ("stopped", stopped.curves)
    assert record.validation == stopped.validation


def test_a_trial_that_diverges_fails_visibly_and_raises_nothing(tmp_path):
    resources = resources_in(tmp_path, "training.clip=null", "training.schedule=constant", "training.warmup=0")
    teacher = prepared_in(resources)
    trial, record = run(spec_of(resources, teacher, lr=1e30), resources)
    assert record.status == "failed"
    assert "finite" in record.error or "nan" in record.error or "inf" in record.error
    assert record.test is None
    assert not resources.run.ranks_file(trial.id).exists()
    assert read_record(resources.run.record_file(trial.id)) == record


def test_a_model_that_fails_on_the_test_targets_alone_fails_visibly_too(resources, teacher, monkeypatch):
    original = next_item.rank_users

    def rank_users(model, data, part, **arguments):
        if part == "test":
            raise TrialDivergedError("a score is not finite")
        return original(model, data, part, **arguments)

    monkeypatch.setattr(next_item, "rank_users", rank_users)
    _, record = run(spec_of(resources, teacher, seed=77), resources)
    assert (record.status, record.error, record.test) == ("failed", "a score is not finite", None)
    assert record.epochs == 2


def test_the_teacher_is_tested_as_it_is(resources, teacher):
    trial, record = run(whole_model(resources, teacher, "teacher"), resources)
    assert (record.status, record.epochs, record.curves) == ("success", 0, ())
    assert record.validation == pytest.approx(teacher.validation)
    assert record.cost["flops"] == teacher.profile["depths"]["4"]["flops"]
    assert record.keep_ratio is None
    assert record.layer_map is None
    assert trial.model is resources.teacher(teacher.id)


def test_the_peak_memory_of_a_trial_holds_its_ranking_of_the_test_targets(resources, teacher, monkeypatch, tmp_path):
    original = next_item.rank_users

    def rank_users(model, data, part, **arguments):
        np.ones(60_000_000, dtype=np.float64).sum()  # 480 MB, gone at once
        return original(model, data, part, **arguments)

    # The teacher is not trained: all that it does is to rank.
    _, usual = run(whole_model(resources, teacher, "teacher"), resources, folder=tmp_path / "usual")
    monkeypatch.setattr(next_item, "rank_users", rank_users)
    _, large = run(whole_model(resources, teacher, "teacher"), resources, folder=tmp_path / "large")
    assert large.cost["peak_memory_bytes"] - usual.cost["peak_memory_bytes"] > 300e6


def test_popularity_ranks_by_counts_in_training(resources, teacher):
    trial, record = run(whole_model(resources, teacher, "popularity"), resources)
    data = resources.data
    assert record.validation == pytest.approx(teacher.popularity)
    ranks = read_ranks(resources.run.ranks_file(trial.id))
    for user, target, rank in zip(ranks["user"], ranks["target"], ranks["rank"], strict=True):
        begin, place = data.offsets[user], data.test_position[user]
        seen = set(data.items[begin:place].tolist()) - {int(target)}
        better = [i for i in range(1, data.n_items + 1) if i not in seen and i != target]
        assert rank == 1 + sum(data.popularity[item] >= data.popularity[target] for item in better)
    assert "parameters" not in record.cost


def test_a_student_starts_from_the_teachers_layers_and_leaves_the_teacher_alone(resources, teacher):
    before = {name: value.clone() for name, value in resources.teacher(teacher.id).named_parameters()}
    spec = spec_of(resources, teacher, "tail", seed=5)
    trial = Trial(spec, resources)
    student = trial._build()
    assert spec.layer_map == (0, 1)
    for layer, origin in enumerate(spec.layer_map):
        own = student.backbone.h[layer].state_dict()
        assert all(torch.equal(value, before[f"backbone.h.{origin}.{name}"]) for name, value in own.items())
    run(spec, resources)
    after = dict(resources.teacher(teacher.id).named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_scratch_controls_of_one_seed_share_their_initialization(resources, teacher):
    def start(arm, seed):
        return Trial(spec_of(resources, teacher, arm, seed=seed), resources)._build().state_dict()

    one, other, another = start("scratch", 3), start("scratch_kd", 3), start("scratch", 4)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], another[name]) for name in one)
    expected = NEXT_ITEM.untrained(
        resources.sweep, resources.data, seed=stream_seed(3, "initialization") % 2**31, layers=2
    ).state_dict()
    assert all(torch.equal(one[name], expected[name]) for name in one)


def test_a_control_without_distillation_needs_no_cached_outputs(resources, teacher, monkeypatch):
    def forbidden(_identity):
        raise AssertionError("the cache was opened")

    monkeypatch.setattr(resources, "teacher_cache", forbidden)
    _, record = run(spec_of(resources, teacher, "scratch"), resources)
    assert record.status == "success"
    assert {row["distillation_loss"] for row in record.curves} == {0.0}
    assert record.configuration["temperature"] is None
    with pytest.raises(AssertionError, match="the cache was opened"):
        run(spec_of(resources, teacher, "fisher"), resources)


def test_the_same_spec_gives_the_same_numbers_and_another_seed_does_not(resources, teacher, tmp_path):
    def curves(seed):
        _, record = run(spec_of(resources, teacher, seed=seed), resources, folder=tmp_path / "own")
        return [(row["loss"], row[METRIC]) for row in record.curves]

    assert curves(1) == curves(1)
    assert curves(1) != curves(2)


def test_searched_learning_rates_are_used(resources, teacher):
    _, slow = run(spec_of(resources, teacher, phase="search", lr=1e-9), resources)
    _, fast = run(spec_of(resources, teacher, phase="search", lr=3e-2), resources)
    assert slow.curves[1]["loss"] == pytest.approx(slow.curves[0]["loss"], rel=0.02)
    assert fast.curves[1]["loss"] < 0.98 * fast.curves[0]["loss"]


def test_models_of_confirm_are_kept_on_request_and_give_the_recorded_ranks(tmp_path):
    resources = resources_in(tmp_path, "execution.keep_models=true")
    teacher = prepared_in(resources)
    trial, _ = run(spec_of(resources, teacher), resources)
    kept = Recommender.from_pretrained(trial.folder / MODEL)
    ranks = next_item.rank_users(kept, resources.data, "test")
    assert np.array_equal(ranks["rank"], read_ranks(resources.run.ranks_file(trial.id))["rank"])
    searched, _ = run(spec_of(resources, teacher, phase="search"), resources)
    assert not (searched.folder / MODEL).exists()


def test_the_identity_moves_with_everything_that_can_change_the_result(resources, teacher):
    spec = spec_of(resources, teacher)
    identity = spec.identity(resources.sweep, "data")
    changes = {
        "phase": "search",
        "arm": "tail",
        "kind": "control",
        "number": 1,
        "seed": 2,
        "start": "random",
        "teacher": "other",
        "teacher_seed": 9,
        "n_teacher_layers": 5,
        "n_student_layers": 3,
        "layer_map": tuple(layer for layer in range(4) if layer not in spec.layer_map),
        "keep_ratio": 0.6,
        "configuration": spec.configuration | {"temperature": 9.0},
        "draw": 1,
        "evidence": "other",
        "stop_below": {1: 0.5},
    }
    fields = {field.name for field in dataclasses.fields(spec)}
    assert set(changes) == fields - {"evidence_seconds"}
    moved = {name: dataclasses.replace(spec, **{name: value}) for name, value in changes.items()}
    identities = {name: one.identity(resources.sweep, "data") for name, one in moved.items()}
    assert identity not in identities.values()
    assert len(set(identities.values())) == len(changes)
    assert spec.identity(resources.sweep, "other data") != identity
    # What the evidence took is no part of the result.
    assert dataclasses.replace(spec, evidence_seconds=99.0).identity(resources.sweep, "data") == identity


def test_the_identity_follows_the_training_settings_but_not_budgets_or_execution(resources, teacher, tmp_path):
    spec = spec_of(resources, teacher)
    identity = spec.identity(resources.sweep, "data")
    for override in ("training.epochs=3", "training.batch_size=8", "training.clip=null", "data.max_length=7"):
        assert spec.identity(resources_in(tmp_path, override).sweep, "data") != identity
    for override in ("search.trials=9", "confirm.seeds=7", "execution.keep_models=true", "execution.workers=2"):
        assert spec.identity(resources_in(tmp_path, override).sweep, "data") == identity


def test_the_record_of_a_lost_process_has_the_identity_of_its_trial(resources, teacher):
    spec = spec_of(resources, teacher)
    record = failed_record(spec, resources.sweep, resources.data.hash, "the worker died")
    assert record.id == Trial(spec, resources).id
    assert (record.status, record.error, record.epochs) == ("failed", "the worker died", 0)
    assert (record.layer_map, record.configuration) == (spec.layer_map, spec.configuration)


def test_a_configuration_becomes_the_weights_of_the_loss():
    weights = loss_weights({"temperature": 3.0, "alpha_dist": 0.25, "alpha_task": 0.5, "alpha_hidden": 0.125})
    assert (weights.temperature, weights.alpha_dist, weights.alpha_task, weights.alpha_hidden) == (3, 0.25, 0.5, 0.125)
    task_only = loss_weights(dict.fromkeys(("temperature", "alpha_dist", "alpha_task", "alpha_hidden")))
    assert (task_only.alpha_dist, task_only.alpha_hidden, task_only.needs_teacher) == (0, 0, False)
    assert task_only.alpha_task == 1


def test_names_say_what_a_trial_is(resources, teacher):
    assert spec_of(resources, teacher).name == "confirm fisher keep=0.5 seed=1"
    assert spec_of(resources, teacher, phase="search").name == "search fisher keep=0.5 #0"
    assert whole_model(resources, teacher, "popularity").name == "confirm popularity"
