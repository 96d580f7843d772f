"""Evidence of several teachers, families over strata, sensitivity by arm, lists beside the teacher's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from fake_run import SCORED, Simulation, build
from scipy import stats

from analysis import compare, conclude, load, sensitivity
from analysis.breakdown import scaling, student_variance
from analysis.describe import cost_table, learning
from analysis.errors import errors, lists
from analysis.gallery import frames, pictures
from analysis.importance import comments, layer_scores, score_variance, teacher_agreement
from analysis.response import ALL
from analysis.sources import sources
from analysis.stats import Ledger, holm, variance_components
from raydistill.records import read_ranks, write_json


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Return a run directory of three teachers."""
    few = {"trials": 3, "seeds": 2, "draws": 2, "users": 50, "items": 80, "epochs": 2}
    plan = Simulation(selectors=("fisher", "uniform", "tail", "random"), teachers=3, **few)
    return load(build(tmp_path_factory.mktemp("teachers") / "run", plan))


def test_each_teacher_has_its_own_scores(taught):
    found = taught.evidence()
    assert [one.teacher_seed for one in found] == [0, 1, 2]
    table = layer_scores(taught, 0.05)
    assert set(table["evidence"]) == {one.id for one in found}
    for one in found:
        raw = one.scores.query("selector == 'fisher' and layer == 3")["score"]
        best = one.scores.query("selector == 'fisher'").groupby("layer")["score"].mean().max()
        row = table.query("selector == 'fisher' and layer == 3 and teacher_seed == @one.teacher_seed")
        half = stats.t.isf(0.025, len(raw) - 1) * raw.sem()
        assert row["mean"].iloc[0] == pytest.approx(raw.mean() / best)
        assert row["high"].iloc[0] - row["mean"].iloc[0] == pytest.approx(half / best)


def test_one_calibration_sample_and_one_run_have_no_interval(tmp_path):
    few = {"trials": 1, "users": 20, "items": 80, "keep_ratios": (0.5,), "controls": ("teacher",), "epochs": 2}
    root = build(tmp_path / "run", Simulation(selectors=("fisher", "uniform"), seeds=1, **few))
    for path in root.glob("evidence/*/scores.parquet"):
        pd.read_parquet(path).query("replicate == 0").to_parquet(path)
    run = load(root)
    for table in (layer_scores(run, 0.05), learning(run, 0.05)):
        assert table["mean"].notna().all()
        assert table[["low", "high"]].isna().all().all()
    results = conclude(run)
    shown = pictures(results, frames(results))
    notes = {one.name: one.figure._supxlabel.get_text().replace("\n", " ") for one in shown}
    assert notes["layer_importance"].endswith("no interval: one sample")
    assert notes["training_curves"].endswith("no interval: one run an arm")


def test_teachers_agree_by_the_mean_kendall_tau_of_their_pairs(taught):
    table = layer_scores(taught, 0.05)
    own = table[table["selector"] == "fisher"].pivot(index="layer", columns="teacher_seed", values="mean")
    taus = [stats.kendalltau(own[a], own[b]).statistic for a, b in combinations(own, 2)]
    assert teacher_agreement(table[table["selector"] == "fisher"]) == pytest.approx(np.mean(taus))
    assert teacher_agreement(table[table["teacher_seed"] == 0].query("selector == 'fisher'")) is None
    words = comments(taught, table)["fisher"]
    assert f"teachers agree {np.mean(taus):.2f}" in words
    assert " to " in words  # deep/shallow differs between teachers


def test_scores_are_split_over_layer_sample_and_teacher(taught, run_dir):
    found = score_variance(taught).query("selector == 'fisher'").set_index("source")["share"]
    array = np.stack(
        [
            one.scores.query("selector == 'fisher'").pivot(index="replicate", columns="layer", values="score")
            for one in taught.evidence()
        ]
    )
    oracle = variance_components(array).shares
    assert found["layer"] == pytest.approx(oracle["user"])
    assert found["teacher x layer"] == pytest.approx(oracle["arm x user"])
    alone = score_variance(load(run_dir))
    assert set(alone["selector"]) == set(SCORED)
    assert list(alone.query("selector == 'taylor'")["source"]) == ["sample", "layer", "sample x layer"]
    assert alone.groupby("selector")["share"].sum().to_numpy() == pytest.approx(1.0)


def test_all_arms_of_all_strata_are_one_planned_family(run_dir):
    ledger = Ledger()
    frame = compare(load(run_dir), ledger=ledger)
    assert frame["keep_ratio"].nunique() == 2
    for _, part in frame.groupby("group"):  # random draws are apart (no claim is made of them), and the yardsticks
        assert part["p_adjusted"].to_numpy() == pytest.approx(holm(part["p_value"].to_numpy()))
    assert frame["p_non_inferior"].notna().all()
    planned = [entry for entry in ledger.entries if entry.planned]
    families = {entry.family for entry in planned}
    kinds = ("difference", "non-inferiority", "inferiority", "equivalence")
    assert families == {f"against uniform{of}: {kind}" for of in ("", ", yardsticks", ", these models only")
                        for kind in kinds}  # fmt: skip
    assert len(planned) == 4 * len(frame)
    frame = frame[frame["group"] == "candidates"]
    # What one stratum alone would have said is never less strict.
    for _, part in frame.groupby("keep_ratio"):
        assert (part["p_adjusted"].to_numpy() >= holm(part["p_value"].to_numpy()) - 1e-12).all()


def test_an_arm_that_lost_a_seed_stays_in_the_family(run_dir, tmp_path):
    root = shutil.copytree(run_dir, tmp_path / "copy")
    run = load(root)
    shutil.rmtree(root / "trials" / run.chosen("tail", 0.5)["id"].iloc[0])
    frame = compare(load(root))
    row = frame.query("arm == 'tail' and keep_ratio == 0.5").iloc[0]
    assert row["n_replicates"] == 2
    claims = frame[frame["group"] == "candidates"]
    assert claims["p_adjusted"].to_numpy() == pytest.approx(holm(claims["p_value"].to_numpy()))
    # The ids lead to what was compared: two runs of each, of the same seeds.
    trials = load(root).trials.set_index("id")
    own, other = (trials.loc[row[name]] for name in ("trials", "reference_trials"))
    assert list(own["seed"]) == list(other["seed"])
    assert row["difference"] == pytest.approx(own["test.ndcg@10"].mean() - other["test.ndcg@10"].mean())


def with_reference(run_dir, tmp_path, arm):
    """Return a copy of a run directory that was planned with another reference."""
    root = shutil.copytree(run_dir, tmp_path / "copy")
    plan = json.loads((root / "plan.json").read_text())
    plan["analysis"]["reference"] = arm
    write_json(root / "plan.json", plan)
    return root


def test_another_reference_keeps_the_comparison_with_uniform(run_dir, tmp_path):
    results = conclude(load(with_reference(run_dir, tmp_path, "tail")))
    assert set(results.reference["against"]) == {"tail"}
    assert set(results.uniform["against"]) == {"uniform"}
    assert {"fisher", "tail", "scratch"} <= set(results.uniform["arm"])
    assert conclude(load(run_dir)).uniform.empty


def test_the_teacher_may_be_the_reference(run_dir, tmp_path):
    results = conclude(load(with_reference(run_dir, tmp_path, "teacher")))
    assert set(results.reference["against"]) == {"teacher"}
    assert results.teacher.equals(results.reference)
    assert results.main.query("arm == 'teacher'")["share_of_teacher"].tolist() == [1.0, 1.0]


def test_sensitivity_is_given_for_every_arm_that_has_enough_trials(tmp_path):
    few = {"trials": 16, "seeds": 1, "users": 40, "items": 60, "fail": 0.0}
    plan = Simulation(selectors=("fisher", "uniform"), controls=("teacher",), **few)
    answer = sensitivity(load(build(tmp_path / "run", plan)))
    arms = list(dict.fromkeys(answer.curves["arm"]))
    assert arms[0] == ALL
    assert set(arms) == {ALL, *answer.trials.groupby("arm").filter(lambda part: len(part) >= 8)["arm"]}
    assert len(arms) > 1
    for arm in arms:
        pairs = answer.pairs[answer.pairs["arm"] == arm]
        assert {frozenset(pair) for pair in zip(pairs["x"], pairs["y"], strict=True)} == {
            frozenset(pair) for pair in combinations(("temperature", "alpha_dist", "keep_ratio"), 2)
        }
        assert pairs["strength"].between(0, 1).all()
        own = answer.trials if arm == ALL else answer.trials[answer.trials["arm"] == arm]
        curve = answer.curves[(answer.curves["arm"] == arm) & (answer.curves["parameter"] == "keep_ratio")]
        assert curve["mean"].tolist() == pytest.approx(own.groupby("keep_ratio")["value"].mean().tolist())
    assert set(answer.importance["method"]) == {"fANOVA", "PED-ANOVA"}
    assert answer.surface["strength"].iloc[0] == answer.pairs["strength"].iloc[0]


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Return a run directory in which uniform searched on its own, and tail took over what uniform had done."""
    few = {"trials": 12, "seeds": 1, "users": 40, "items": 60, "fail": 0.0, "epochs": 2}
    plan = Simulation(selectors=("uniform", "tail"), controls=("teacher",), **few)
    run = load(build(tmp_path_factory.mktemp("twins") / "run", plan))
    trials, metric = run.trials, "validation.ndcg@10"
    search = trials[trials["phase"] == "search"]
    shared = ["status", "keep_ratio", metric, *(c for c in trials if c.startswith("configuration."))]
    first, second = (search.index[search["arm"] == arm] for arm in ("uniform", "tail"))
    trials.loc[second, shared] = trials.loc[first, shared].to_numpy()
    trials.loc[second, "same_as"] = trials.loc[first, "id"].to_numpy()
    return run


def test_what_two_arms_share_is_one_observation_of_all_arms_together(twins):
    answer, alone = sensitivity(twins), sensitivity(twins, "uniform")
    assert len(answer.trials) == 2 * len(alone.trials)
    for name in ("curves", "importance", "pairs"):
        both, one = getattr(answer, name), getattr(alone, name)
        pd.testing.assert_frame_equal(both[both["arm"] == ALL].drop(columns="arm"), one.drop(columns="arm"))
    assert set(answer.curves["arm"]) == {ALL, "uniform", "tail"}
    found = sources(twins, {"sensitivity_curves": answer.curves}).set_index("arm")["trials"]
    assert found[ALL] == list(alone.trials["id"])
    assert found["tail"] == list(answer.trials.query("arm == 'tail'")["id"])


def test_records_that_do_not_know_of_twins_all_count(twins):
    before = replace(twins, trials=twins.trials.drop(columns="same_as"))
    curves = sensitivity(before).curves.query("arm == @ALL and parameter == 'temperature'")
    assert curves["n"].sum() == len(sensitivity(before).trials)


def ranks(run, identity):
    return read_ranks(run.file(identity)[0])["rank"]


def test_lists_beside_the_teachers_by_brute_force(run_dir):
    run = load(run_dir)
    row = lists(run, run.arms()).query("arm == 'tail' and keep_ratio == 0.25").iloc[0]
    teacher = row["teacher_trials"][0]
    wanted, best = ranks(run, teacher) <= 10, run.top(teacher)
    both, lost, overlap = [], [], []
    for identity in row["trials"]:
        hit = ranks(run, identity) <= 10
        both.append((hit & wanted).mean())
        lost.append((wanted & ~hit).mean())
        overlap.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(run.top(identity), best, strict=True)]))
    assert row["both"] == pytest.approx(np.mean(both))
    assert row["only_teacher"] == pytest.approx(np.mean(lost))
    assert row["overlap"] == pytest.approx(np.mean(overlap))
    assert row[["both", "only_teacher", "only_student", "neither"]].sum() == pytest.approx(1)


def test_students_are_set_against_their_own_teacher(taught):
    row = lists(taught, ["tail"]).query("keep_ratio == 0.25").iloc[0]
    tops = {seed: taught.top(i) for seed, i in taught.chosen("teacher", None)[["teacher_seed", "id"]].to_numpy()}
    mine = taught.chosen("tail", 0.25)
    found = [
        (taught.top(i)[:, :, None] == tops[seed][:, None, :]).any(2).mean()
        for seed, i in mine[["teacher_seed", "id"]].to_numpy()
    ]
    assert row["overlap"] == pytest.approx(np.mean(found))


def test_groups_of_users_cover_length_popularity_and_attributes(run_dir):
    ledger = Ledger()
    run = load(run_dir)
    frame = errors(run, ["tail", "fisher"], against="teacher", ledger=ledger)
    assert set(frame["family"]) == {"history length", "target popularity", "attribute"}
    assert set(frame.query("family == 'target popularity'")["group"]) <= {"head", "torso", "tail"}
    row = frame.query("arm == 'tail' and keep_ratio == 0.5 and group == 'Drama'").iloc[0]
    users = run.about_users()
    drama = {i.item for i in run.items().itertuples() if "Drama" in i.attributes}
    inside = np.isin(users["target"], list(drama))
    difference = run.per_user("tail", 0.5).values - run.per_user("teacher", None).values
    assert row["difference"] == pytest.approx(difference[:, inside].mean())
    assert row["users"] == inside.sum()
    assert {entry.correction for entry in ledger.entries} == {"Benjamini-Hochberg"}


def test_students_are_split_by_a_mixed_model_over_all_strata(taught, run_dir):
    found = student_variance(taught)
    assert list(found["source"]) == ["keep_ratio", "arm", "teacher", "seed", "arm x keep_ratio", "draw", "residual"]
    assert found["share"].sum() == pytest.approx(1)
    assert len(set(found["trials"].iloc[0])) == 2 * 3 * 2 * (3 + 2)  # keep-ratios, teachers, seeds, arms and draws
    assert "teacher" not in set(student_variance(load(run_dir))["source"])


def test_costs_are_fitted_against_depth(run_dir):
    points, fits = scaling(load(run_dir))
    line = fits[fits["cost"] == "operations (FLOPs)"].iloc[0]
    assert (line["slope"], line["intercept"]) == (pytest.approx(5.1e6), pytest.approx(0, abs=1))
    assert line["r_squared"] == pytest.approx(1)
    known = {"training time (s)", "peak memory (bytes)", "parameters, all", "parameters, no embeddings"}
    assert known <= set(points["cost"])


def test_what_training_costs_is_not_read_off_trials_that_trained_nothing(run_dir):
    run = load(run_dir)
    confirmed = run.standing().set_index("id")
    points, fits = scaling(run)
    deepest = {cost: part["depth"].max() for cost, part in points.groupby("cost")}
    assert deepest["parameters, all"] == 8  # the teacher's
    for cost in ("training time (s)", "peak memory (bytes)"):
        trained = confirmed[~confirmed["arm"].isin(["teacher", "popularity"])]
        assert set(points.loc[points["cost"] == cost, "id"]) == set(trained.index)
        assert deepest[cost] == trained["n_student_layers"].max() < 8
    line = fits[fits["cost"] == "training time (s)"].iloc[0]
    assert line["slope"] == pytest.approx(1.1, rel=0.1)  # as simulated; the teacher's 0 s would turn it down
    table = cost_table(run).set_index("arm")
    assert np.isnan(table.loc[["teacher", "popularity"], ["training_seconds", "peak_memory_bytes"]]).all(axis=None)
    assert table.loc["teacher", "latency_ms"] > 0


def test_what_arms_share_is_one_measurement(run_dir):
    run = load(run_dir)
    one, other = run.standing().query("arm == 'uniform'")["id"][:2]
    assert {one, other} <= set(scaling(run)[0]["id"])
    run = load(run_dir)
    run.trials["same_as"] = run.trials["id"].map({other: one})
    left = set(scaling(run)[0]["id"])
    assert one in left
    assert other not in left
