"""The preference task on the same spine: values a user, verdicts where smaller is better, lists, and no mixing."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from fake_preference import build_preference
from fake_run import Simulation, build
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from analysis import compare, conclude, load, load_each
from analysis.__main__ import main
from analysis.errors import errors, lists
from analysis.gallery import frames, pictures
from analysis.stats import Ledger
from analysis.tables import WIDTH, latex_escape, latex_table, terminal_table
from raydistill.errors import RunDirectoryError
from raydistill.records import SCORES, read_scores

FEW = {"selectors": ("fisher", "uniform", "tail", "random"), "trials": 9, "seeds": 3, "users": 60, "items": 120,
       "draws": 2, "epochs": 2}  # fmt: skip
FEW_TRIALS = FEW | {"trials": 1}  # too few for curves of sensitivity, which take most of a report's time


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build_preference(tmp_path_factory.mktemp("preference") / "run", Simulation(metric="user_log_loss", **FEW))


@pytest.fixture(scope="module")
def run(root):
    return load(root)


@pytest.fixture(scope="module")
def results(run):
    return conclude(run)


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    """Return a run directory whose metric is one number a run."""
    return load(build_preference(tmp_path_factory.mktemp("pooled") / "run", Simulation(metric="auc", **FEW_TRIALS)))


@pytest.mark.parametrize("metric", ["user_log_loss", "user_accuracy", "user_auc", "ndcg@5", "hr@10", "mrr"])
def test_values_a_user_are_those_of_scikit_learn(run, metric):
    own = run.per_user("fisher", 0.5, metric)
    scores = read_scores(run.file(own.trials["id"].iloc[0])[0])
    expected = []
    for user in np.unique(scores["user"]):
        rows = {name: column[scores["user"] == user] for name, column in scores.items()}
        known = rows["label"] >= 0
        labels, liked = rows["label"][known], rows["relevant"]
        order = np.lexsort((liked, -rows["score"]))
        places = np.flatnonzero(liked[order]) + 1
        if metric == "user_log_loss":
            expected.append(log_loss(labels, rows["score"][known], labels=[0, 1]))
        elif metric == "user_accuracy":
            expected.append((rows["predicted"][known] == labels).mean())
        elif metric == "user_auc" and 0 < labels.mean() < 1:
            expected.append(roc_auc_score(labels, rows["score"][known]))
        elif metric == "ndcg@5" and liked.any():
            expected.append(ndcg_score([liked.astype(int)], [rows["score"]], k=5))
        elif metric == "hr@10" and liked.any():
            expected.append(float(places[0] <= 10))
        elif metric == "mrr" and liked.any():
            expected.append(1 / places[0])
    assert own.values[0] == pytest.approx(expected, rel=1e-4)


def test_smaller_is_better_from_table_to_verdict(results):
    for _, part in results.main.groupby("keep_ratio"):
        assert part["mean"].is_monotonic_increasing
        assert part["arm"].iloc[-1] == "popularity"
        students = part[~part["arm"].isin(["teacher", "popularity"])]
        teacher = part[part["arm"] == "teacher"]["mean"].iloc[0]
        assert students["share_of_teacher"].to_numpy() == pytest.approx(teacher / students["mean"].to_numpy())
    row = results.reference.query("arm == 'scratch' and keep_ratio == 0.5").iloc[0]
    assert row["difference"] > 0  # a larger loss
    assert row["relative"] < 0  # is a worse arm
    assert row["relative_low"] <= row["relative"] <= row["relative_high"]
    assert row["word"] in ("worse", "inferior", "undecided")
    popular = results.reference.query("arm == 'popularity'")
    assert set(popular["word"]) == {"inferior"}
    assert results.best_selector == {
        ratio: part[part["kind"] == "selector"].sort_values("mean")["arm"].iloc[0]
        for ratio, part in results.main.groupby("keep_ratio")
    }


def test_the_teacher_is_praised_for_a_smaller_loss_than_popularity(results):
    from analysis.headline import headline

    text = " ".join(headline(results))
    assert "The teacher is better than recommending what is popular" in text


def test_the_configuration_and_the_simple_opponent_have_the_smallest_validation_loss(run):
    frame = run.trials.copy()
    mine = frame.index[(frame["arm"] == "fisher") & (frame["phase"] == "confirm") & (frame["keep_ratio"] == 0.5)]
    frame.loc[mine[0], ["configuration", "validation.user_log_loss"]] = ["other", 9.0]
    changed = type(run)(run.root, run.signature, run.plan, frame, run.curves, run.refused)
    assert mine[0] not in changed.chosen("fisher", 0.5).index
    against = set(compare(run, "best simple").query("keep_ratio == 0.5")["against"])
    means = {arm: run.chosen(arm, 0.5)["validation.user_log_loss"].mean() for arm in ("uniform", "tail", "random")}
    assert against == {min(means, key=means.get)}


def test_roc_and_calibration_are_of_labelled_candidates(results, run):
    tables = frames(results)
    row = tables["roc"].query("arm == 'uniform' and keep_ratio == 0.5").iloc[0]
    trials = run.chosen("uniform", 0.5)
    assert row["auc"] == pytest.approx(trials["test.auc"].mean())
    assert row["auc_low"] <= row["auc"] <= row["auc_high"]
    row = tables["calibration"].query("arm == 'uniform' and keep_ratio == 0.5").iloc[0]
    assert row["error"] == pytest.approx(trials["test.calibration_error"].mean())
    named = {picture.name for picture in pictures(results, tables)}
    assert {"roc", "calibration", "groups_of_users", "difference_to_reference", "compression"} <= named


def test_every_metric_of_the_records_is_in_a_table(results, run):
    table = frames(results)["metrics"]
    row = table.query("arm == 'tail' and keep_ratio == 0.25 and metric == 'pr_auc'").iloc[0]
    assert row["mean"] == pytest.approx(run.chosen("tail", 0.25)["test.pr_auc"].mean())
    assert {"accuracy", "log_loss", "auc", "user_auc", "pr_auc", "calibration_error", "ndcg@5", "ndcg@10", "mrr",
            "hr@5", "hr@10"} <= set(table["metric"])  # fmt: skip


def test_errors_are_by_history_and_by_group_of_candidates(run):
    frame = errors(run, ["tail"], against="teacher", ledger=Ledger())
    assert set(frame["family"]) == {"history length", "candidate popularity", "candidate attribute"}
    row = frame.query("keep_ratio == 0.5 and group == 'Comedy'").iloc[0]
    comedies = {item.item for item in run.items().itertuples() if "Comedy" in item.attributes}

    def mean_loss(identity):
        scores = read_scores(run.file(identity)[0])
        rows = (scores["label"] >= 0) & np.isin(scores["item"], list(comedies))
        users = np.unique(scores["user"][rows])
        loss = -scores["log_probability"].astype(float)
        return len(users), np.mean([loss[rows & (scores["user"] == user)].mean() for user in users])

    mine = [mean_loss(identity) for identity in run.chosen("tail", 0.5)["id"]]
    teacher = mean_loss(run.chosen("teacher", None)["id"].iloc[0])
    assert row["users"] == mine[0][0]
    assert row["difference"] == pytest.approx(np.mean([loss for _, loss in mine]) - teacher[1], rel=1e-4)


def test_lists_of_ten_are_of_the_candidates_of_the_user(run):
    row = lists(run, ["tail"]).query("keep_ratio == 0.5").iloc[0]
    best = {}
    for name, identity in (("tail", row["trials"][0]), ("teacher", row["teacher_trials"][0])):
        scores = read_scores(run.file(identity)[0])
        best[name] = [
            set(scores["item"][scores["user"] == u][np.argsort(-scores["score"][scores["user"] == u])][:10])
            for u in np.unique(scores["user"])
        ]
    first = np.mean([len(a & b) / 10 for a, b in zip(best["tail"], best["teacher"], strict=True)])
    tops = [run.top(i) for i in (row["trials"][0], row["teacher_trials"][0])]
    assert (tops[0][:, :, None] == tops[1][:, None, :]).any(2).mean() == pytest.approx(first)
    assert 0 < row["overlap"] < 1
    assert row[["both", "only_teacher", "only_student", "neither"]].sum() == pytest.approx(1)


@pytest.mark.long
def test_words_say_candidate_lists_and_never_the_catalogue(tmp_path, capsys, no_pictures):
    root = build_preference(tmp_path / "run", Simulation(metric="user_log_loss", **FEW_TRIALS))
    assert main([str(root)]) == 0
    summary = json.loads((root / "report" / "summary.json").read_text())
    drawn = "period+12 drawn by popularity, seed 0"
    assert drawn in summary["protocol_signature"]
    assert (summary["task"], summary["direction"]) == ("preference", "min")
    page = (root / "report" / "index.html").read_text()
    assert f"each user&#39;s candidate list ({drawn}), not the full catalogue" in page
    assert "over the whole catalogue" not in page
    text = latex_table(summary["strata"][0], summary)
    assert latex_escape(drawn) in text
    assert "smaller is better" in text
    best = min(a["mean"] for a in summary["strata"][0]["arms"] if a["arm"] not in ("teacher", "popularity"))
    assert rf"\textbf{{{best:.4f}}}" in text
    out = capsys.readouterr().out
    assert drawn in out
    assert max(map(len, terminal_table(summary).splitlines())) <= WIDTH


def test_candidate_lists_and_the_full_catalogue_never_share_a_table(root, run_dir, tmp_path, capsys):
    for reader in (load, load_each):
        with pytest.raises(RunDirectoryError) as caught:
            reader(run_dir, root)
        assert "task ('next_item' against 'preference')" in caught.value.what
        assert "candidates ('full-catalogue' against 'period+12" in caught.value.what
    assert main([str(run_dir), str(root), "--output", str(tmp_path)]) == 2
    assert "cannot stand in one table" in capsys.readouterr().err
    # Nor do lists that were drawn otherwise.
    other = build_preference(
        tmp_path / "other", Simulation(**{**FEW, "users": 20, "protocol": {"candidates": "period+50 drawn by uniform"}})
    )
    with pytest.raises(RunDirectoryError, match="candidates"):
        load_each(root, other)


@pytest.mark.long
def test_a_metric_of_all_candidates_together_is_tested_over_seeds_alone(pooled, no_pictures):
    run = pooled
    results = conclude(run)
    row = results.main.query("arm == 'fisher' and keep_ratio == 0.5").iloc[0]
    assert row["mean"] == pytest.approx(run.chosen("fisher", 0.5)["test.auc"].mean())
    assert run.users() == FEW["users"]
    tables = frames(results)
    assert "variance_test" not in tables
    assert {"candidate popularity", "candidate attribute"} == set(tables["groups_of_users"]["family"])
    assert main([str(run.root)]) == 0
    page = (run.root / "report" / "index.html").read_text()
    assert "here intervals and tests know seeds only" in page


def test_one_run_of_such_a_metric_has_no_interval_and_users_no_test(pooled):
    results = conclude(pooled)
    main = results.main.set_index(["keep_ratio", "arm"])
    single = main[main.index.isin(["teacher", "popularity"], level="arm")]
    assert (single["n_seeds"] == 1).all()
    assert single[["low", "high"]].isna().all().all()
    assert main.drop(single.index)[["low", "high"]].notna().all().all()
    frame = results.reference
    over_users = ["p_users", "p_sign_flip", "effect_users"]
    assert frame[over_users].isna().all().all()
    assert (frame["n_users"] == FEW["users"]).all()
    assert frame.loc[frame["arm"] == "teacher", ["mean_low", "mean_high"]].isna().all().all()
    assert frame.loc[frame["arm"] == "fisher", "p_seeds"].notna().all()
    tests = pd.DataFrame(results.ledger.rows())
    of_users = tests["family"].str.endswith(("t over users", "sign flip over users"))
    assert of_users.any()
    assert tests.loc[of_users, "p_value"].isna().all()
    assert set(tests.loc[of_users, "correction"]) == {"none"}


@pytest.mark.long
def test_tables_show_the_mean_alone_where_there_is_no_interval(pooled, no_pictures):
    assert main([str(pooled.root)]) == 0
    summary = json.loads((pooled.root / "report" / "summary.json").read_text())
    teacher = next(arm for arm in summary["strata"][0]["arms"] if arm["arm"] == "teacher")
    assert (teacher["low"], teacher["high"]) == (None, None)
    mean = f"{teacher['mean']:.4f}"
    assert f"teacher & {mean} & – & " in latex_table(summary["strata"][0], summary).replace(r"$^{\dagger}$", "")
    line = next(line for line in terminal_table(summary).splitlines() if line.startswith("  teacher"))
    assert line.split()[:3] == ["teacher", mean, "–"]
    page = (pooled.root / "report" / "index.html").read_text()
    assert f'>{mean}</td><td data-v="">–</td>' in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_one_run_of_such_a_metric_is_compared_with_nothing(tmp_path):
    plan = Simulation(metric="auc", **{**FEW, "seeds": 1, "draws": 1, "users": 30})
    frame = compare(load(build_preference(tmp_path / "run", plan)))
    assert frame.empty


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_scores_that_are_not_those_of_the_record_are_refused(root, tmp_path, damage):
    copy = shutil.copytree(root, tmp_path / "copy")
    path = next(copy.glob(f"trials/*/{SCORES}"))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"x")
    found = load(copy)
    assert found.refused["path"].tolist() == [f"trials/{path.parent.name}/{SCORES}"]
    assert path.parent.name not in set(found.trials["id"])


def test_next_item_runs_say_the_full_catalogue(tmp_path):
    root = build(tmp_path / "run", Simulation(**{**FEW, "users": 20, "trials": 1, "seeds": 1, "draws": 1}))
    assert load(root).listed == "the full catalogue"
