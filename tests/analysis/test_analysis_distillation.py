"""Does distillation matter? Only students of the very same layers, teachers and seeds can tell."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from fake_run import Simulation, build

from analysis import conclude, load
from analysis.distillation import distillation
from analysis.headline import headline
from analysis.report.extra import more_tables
from analysis.stats import crossed_mean
from raydistill.records import RunDirectory, read_record, write_record

FEW = {"selectors": ("fisher", "uniform", "tail", "random"), "controls": ("teacher", "no_kd", "scratch_kd"),
       "trials": 1, "seeds": 3, "draws": 2, "users": 50, "items": 80, "epochs": 2, "teachers": 2}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a run whose ``no_kd`` has the layers of ``uniform``."""
    return build(tmp_path_factory.mktemp("distilled") / "run", Simulation(**FEW))


def change(root, trials, **fields):
    run = RunDirectory(root)
    if "layer_map" in fields:  # numpy's integers, of a table that was read from its cache, are no JSON
        fields["layer_map"] = tuple(int(layer) for layer in fields["layer_map"])
    for identity in trials["id"]:
        record = read_record(run.record_file(identity))
        write_record(run.record_file(identity), replace(record, **fields))


def test_the_opponent_has_the_same_layers_and_runs_are_paired_by_teacher_and_seed(root):
    run = load(root)
    frame = distillation(run)
    assert frame["keep_ratio"].tolist() == [0.25, 0.5]
    assert set(frame["arm"]) == {"uniform"}
    assert set(frame["against"]) == {"no_kd"}
    for row in frame.itertuples():
        own, plain = (run.chosen(arm, row.keep_ratio) for arm in ("uniform", "no_kd"))
        both = own.merge(plain, on=["teacher_seed", "seed"])
        assert (both["layer_map_x"].map(tuple) == both["layer_map_y"].map(tuple)).all()
        assert row.difference == pytest.approx((both["test.ndcg@10_x"] - both["test.ndcg@10_y"]).mean())
        values = [run.per_user(arm, row.keep_ratio).values.reshape(2, 3, -1) for arm in ("uniform", "no_kd")]
        assert row.p_value == pytest.approx(crossed_mean(values[0] - values[1]).p_value())


def test_no_claim_is_made_where_nobody_distilled_these_layers(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "run")
    change(copy, load(copy).chosen("no_kd", 0.5), layer_map=(1, 2, 3, 6))
    results = conclude(load(copy))
    assert results.distillation["keep_ratio"].tolist() == [0.25]
    assert "at 50 % nothing can be said, since nobody distilled students of these layers" in " ".join(headline(results))


def test_a_seed_that_is_missing_takes_the_others_not_with_it(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "run")
    lost = load(copy).chosen("uniform", 0.5)
    lost = lost[lost["seed"] == lost["seed"].max()]
    assert len(lost) == 2  # one of each teacher
    for identity in lost["id"]:
        shutil.rmtree(RunDirectory(copy).record_file(identity).parent)
    results = conclude(load(copy))
    assert results.distillation["keep_ratio"].tolist() == [0.25, 0.5]
    assert results.distillation["trials"].map(len).tolist() == [6, 4]
    assert "nothing can be said" not in " ".join(headline(results))


def test_layers_must_match_under_every_teacher(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "run")
    trials = load(copy).chosen("no_kd", 0.5)
    change(copy, trials[trials["teacher_seed"] == 1], layer_map=(1, 2, 3, 6))
    assert distillation(load(copy))["keep_ratio"].tolist() == [0.25]


def test_of_random_layers_only_the_draw_with_these_layers_counts(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "run")
    draws = load(copy).chosen("random", 0.5)
    second = draws[draws["draw"] == 1]
    change(copy, load(copy).chosen("no_kd", 0.5), layer_map=second["layer_map"].iloc[0], draw=1)
    row = distillation(load(copy)).query("keep_ratio == 0.5").iloc[0]
    assert (row["arm"], row["drawn"], bool(row["method_claim"])) == ("random", 0, True)
    assert sorted(row["trials"]) == sorted(second["id"])


def test_an_arm_that_searched_its_way_to_no_distillation_is_no_opponent(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "run")
    settings = {"temperature": 3.0, "alpha_dist": 0.0, "alpha_task": 1.0}
    change(copy, load(copy).chosen("uniform", 0.5), configuration=settings)
    assert distillation(load(copy))["keep_ratio"].tolist() == [0.25]


def test_of_several_opponents_the_best_on_validation_data_stands(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "run")
    run = load(copy)
    change(copy, run.chosen("tail", 0.5), layer_map=run.chosen("uniform", 0.5)["layer_map"].iloc[0])
    run = load(copy)
    means = {arm: run.chosen(arm, 0.5)["validation.ndcg@10"].mean() for arm in ("uniform", "tail")}
    frame = distillation(run).query("keep_ratio == 0.5")
    assert frame["arm"].tolist() == [max(means, key=means.get)]


def test_the_report_has_a_table_of_it_and_a_run_without_the_control_none(root, tmp_path):
    results = conclude(load(root))
    shown = {entry["name"]: entry for entry in more_tables(results, {"distillation": results.distillation})}
    assert "uniform" in shown["distillation"]["table"]
    copy = shutil.copytree(root, tmp_path / "run")
    for identity in load(copy).trials.query("arm == 'no_kd'")["id"]:
        shutil.rmtree(copy / "trials" / identity)
    results = conclude(load(copy))
    assert results.distillation.empty
    assert "Distillation" not in " ".join(headline(results))
    assert np.isfinite(results.main["mean"]).all()
