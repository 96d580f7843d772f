"""What numbers stand for: random draws, teachers that only controls have, runs that another arm lacks."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from fake_run import Simulation, build
from statsmodels.stats.proportion import proportion_confint

from analysis import compare, conclude, load
from analysis.errors import lists
from analysis.gallery import pictures
from analysis.headline import headline
from analysis.stats import crossed_mean
from analysis.summary import summarize
from raydistill.records import write_json

FEW = {"selectors": ("fisher", "uniform", "random"), "controls": ("teacher", "popularity", "scratch"), "trials": 1,
       "draws": 3, "users": 40, "items": 60, "epochs": 2, "keep_ratios": (0.5,)}  # fmt: skip


@pytest.fixture(scope="module")
def two_teachers(tmp_path_factory):
    """Return a run directory of two teachers, two seeds of each."""
    return build(tmp_path_factory.mktemp("two") / "run", Simulation(teachers=2, seeds=2, **FEW))


def remove(root, trials) -> None:
    for identity in trials["id"]:
        shutil.rmtree(root / "trials" / identity)


def test_random_draws_are_judged_as_the_layer_sets_that_they_are(run_dir):
    frame = compare(load(run_dir))
    random = frame[frame["arm"] == "random"]
    assert (random["drawn"] == 3).all()
    assert not random["method_claim"].any()
    assert set(random["word"]) == {"undecided"}
    assert random["sentence"].str.contains("the 3 layer sets drawn").all()
    assert (frame.loc[frame["arm"] != "random", "drawn"] == 0).all()


def test_the_interval_of_random_is_as_wide_as_its_draws_vary(run_dir):
    run = load(run_dir)
    draws = run.per_user("random", 0.5).by_draw()
    assert draws.shape == (3, 80)
    row = conclude(run).main.query("arm == 'random' and keep_ratio == 0.5").iloc[0]
    assert (row["high"] - row["low"]) / 2 >= crossed_mean(draws).half_width() - 1e-12
    assert row["mean"] == pytest.approx(draws.mean())


def test_a_teacher_that_only_controls_have_is_not_counted(two_teachers, tmp_path):
    whole = conclude(load(two_teachers))
    assert whole.breadth == (2, 2)
    assert "over 2 independently trained teachers, 2 seeds each" in " ".join(headline(whole))
    root = shutil.copytree(two_teachers, tmp_path / "run")
    trials = load(root).trials
    remove(root, trials[(trials["teacher_seed"] == 1) & (trials["kind"] == "selector")])
    results = conclude(load(root))
    assert results.breadth == (1, 2)
    assert (summarize(results)["teachers"], summarize(results)["seeds"]) == (1, 2)
    assert "all with one teacher" in " ".join(headline(results))


def test_teachers_of_unequal_seeds_are_compared_over_as_many_and_the_ids_say_which(two_teachers, tmp_path):
    root = shutil.copytree(two_teachers, tmp_path / "run")
    trials = load(root).trials
    lost = trials[(trials["arm"] == "fisher") & (trials["phase"] == "confirm") & (trials["teacher_seed"] == 1)].head(1)
    remove(root, lost)
    results = conclude(load(root))
    known = load(root).trials.set_index("id")["test.ndcg@10"]
    row = results.main[results.main["arm"] == "fisher"].iloc[0]
    assert (row["n_teachers"], row["n_seeds"]) == (2, 2)
    assert row["mean"] == pytest.approx(known[row["trials"]].mean())
    row = results.reference[results.reference["arm"] == "fisher"].iloc[0]
    assert len(row["trials"]) == len(row["reference_trials"]) == 2
    expected = known[row["trials"]].mean() - known[row["reference_trials"]].mean()
    assert row["difference"] == pytest.approx(expected)


def test_students_are_never_set_against_another_teacher(two_teachers, tmp_path):
    root = shutil.copytree(two_teachers, tmp_path / "run")
    trials = load(root).trials
    remove(root, trials[(trials["arm"] == "teacher") & (trials["teacher_seed"] == 1)])
    row = compare(load(root), "teacher").query("arm == 'fisher'").iloc[0]
    known = load(root).trials.set_index("id")
    assert set(known.loc[row["trials"], "teacher_seed"]) == {0}
    assert set(known.loc[row["reference_trials"], "teacher_seed"]) == {0}
    popular = compare(load(root), "popularity").query("arm == 'fisher'").iloc[0]
    assert set(known.loc[popular["trials"], "teacher_seed"]) == {0, 1}


def test_popularity_stands_against_every_teacher_though_it_is_filed_under_the_first(two_teachers):
    run = load(two_teachers)
    known = run.trials[run.trials["phase"] == "confirm"].set_index("arm")["test.ndcg@10"]
    assert len(known.loc[["popularity"]]) == 1
    teachers = known.loc["teacher"]
    row = compare(run, "teacher").query("arm == 'popularity'").iloc[0]
    assert (row["n_replicates"], row["unit"]) == (2, "teachers")
    assert row["reference_mean"] == pytest.approx(teachers.mean())
    assert row["difference"] == pytest.approx(known["popularity"] - teachers.mean())
    assert (len(row["trials"]), len(row["reference_trials"])) == (1, 2)
    assert f"({teachers.mean():.4f} against {known['popularity']:.4f} NDCG@10)" in " ".join(headline(conclude(run)))
    own = lists(run, ["popularity"]).iloc[0]
    top = run.top(run.chosen("popularity", None)["id"].iloc[0])
    shared = [
        len(set(a) & set(b)) / 10
        for i in run.chosen("teacher", None)["id"]
        for a, b in zip(top, run.top(i), strict=True)
    ]
    assert own["overlap"] == pytest.approx(np.mean(shared))


@pytest.mark.parametrize("draws", [3, 19])
def test_too_few_random_draws_are_no_test(tmp_path, draws):
    few = FEW | {"draws": draws, "keep_ratios": (0.5, 0.25)}
    results = conclude(load(build(tmp_path / "run", Simulation(seeds=1, **few))))
    placed = results.random[results.random["percentile"].notna()]
    assert placed["smallest_p_value"].tolist() == pytest.approx([1 / (draws + 1)] * 4)
    family = [entry for entry in results.ledger.entries if "random draws" in entry.family]
    assert len(family) == (4 if draws == 19 else 0)
    assert placed["p_adjusted"].isna().all() == (draws == 3)
    worst = placed.sort_values("percentile").iloc[0]
    draw_means = results.random.query("arm == 'random' and keep_ratio == @worst.keep_ratio")["value"]
    beaten = int((draw_means < worst["value"]).sum())
    assert (worst["low"], worst["high"]) == pytest.approx(proportion_confint(beaten, draws, method="beta"))
    text = next(p for p in pictures(results, {"random_draws": results.random}) if p.name == "random_draws").text
    assert ("no selector can be shown to beat chance" in text) == (draws == 3)
    assert (
        f"With {draws} draws, the most that any number of layers has, p cannot be under {1 / (draws + 1):.2g}" in text
    )


def test_evidence_of_a_teacher_without_trials_has_its_own_seed(two_teachers, tmp_path):
    root = shutil.copytree(two_teachers, tmp_path / "run")
    run = load(root)
    remove(root, run.trials[run.trials["teacher_seed"] == 1])
    second = run.evidence()[1].about["teacher"]
    write_json(root / "teacher" / second / "history.json", {"seed": 1})
    assert [one.teacher_seed for one in load(root).evidence()] == [0, 1]
    assert np.isfinite(conclude(load(root)).main["mean"]).all()
