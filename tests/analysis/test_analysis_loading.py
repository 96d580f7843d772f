"""Records to tables: nothing lost, nothing mixed, nothing broken let in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_run import Simulation, build
from scipy import stats

from analysis import compare, load, load_each
from raydistill.errors import CorruptArtifactError, RunDirectoryError
from raydistill.records import RunDirectory, metric_per_user, read_ranks, read_record, write_json

ROOT = Path(__file__).resolve().parents[2]


def copy(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "copy"))


def test_every_record_is_one_row_with_its_own_values(run_dir):
    run = load(run_dir, cache=False)
    paths = sorted(run_dir.glob("trials/*/record.json"))
    assert len(run.trials) == len(paths)
    for path in paths[::7]:
        record = read_record(path)
        row = run.trials[run.trials["id"] == record.id].iloc[0]
        assert (row["arm"], row["phase"], row["status"]) == (record.arm, record.phase, record.status)
        if record.test:
            assert row["test.ndcg@10"] == record.test["ndcg@10"]
        if record.configuration:
            assert row["configuration.temperature"] == record.configuration["temperature"]
        assert record.layer_map is None or list(row["layer_map"]) == list(record.layer_map)
        epochs = run.curves[run.curves["id"] == record.id]
        assert epochs["loss"].tolist() == [e["loss"] for e in record.curves]


def test_the_cache_gives_the_same_table_and_is_made_anew_when_a_record_changes(run_dir, tmp_path):
    root = copy(run_dir, tmp_path)
    first, second, plain = load(root), load(root), load(root, cache=False)
    for frame in (first.trials, second.trials):
        assert frame["id"].tolist() == plain.trials["id"].tolist()
        assert frame["test.ndcg@10"].equals(plain.trials["test.ndcg@10"])
        assert [None if m is None else list(m) for m in frame["layer_map"]] == [
            None if m is None else list(m) for m in plain.trials["layer_map"]
        ]
    gone = plain.trials["id"].iloc[0]
    shutil.rmtree(RunDirectory(root).trial(gone))
    assert gone not in set(load(root).trials["id"])


def test_a_cut_off_cache_is_made_anew(run_dir, tmp_path):
    root = copy(run_dir, tmp_path)
    load(root)
    for path in (root / "report" / "cache").glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:50])
    assert len(load(root).trials) == len(load(root, cache=False).trials)


@pytest.mark.parametrize("damage", ["edited", "cut", "schema", "moved"])
def test_broken_records_are_refused_and_listed_and_the_rest_is_read(run_dir, tmp_path, damage):
    root = copy(run_dir, tmp_path)
    path = sorted(root.glob("trials/*/record.json"))[0]
    content = json.loads(path.read_text())
    if damage == "edited":
        content["validation"]["ndcg@10"] = 0.99
        path.write_text(json.dumps(content))
    elif damage == "cut":
        path.write_text(path.read_text()[:100])
    elif damage == "schema":
        path.write_text(json.dumps({**content, "schema": 99}))
    else:
        shutil.move(path.parent, path.parent.with_name("0000000000000000"))
    run = load(root, cache=False)
    assert len(run.refused) == 1
    assert len(run.trials) == len(list(root.glob("trials/*/record.json"))) - 1
    word = {"edited": "own hash", "cut": "cannot be read", "schema": "schema version 99", "moved": "moved"}[damage]
    assert word in run.refused["reason"].iloc[0]


def test_runs_of_different_protocol_do_not_share_a_table_and_the_keys_are_named(run_dir, tmp_path, small):
    other = build(tmp_path / "b", Simulation(seed=1, protocol={"seen": "kept", "ties": "for"}, **small))
    for reader in (load, load_each):
        with pytest.raises(RunDirectoryError) as caught:
            reader(run_dir, other)
        assert "seen ('removed' against 'kept')" in caught.value.what
        assert "ties" in caught.value.what
        assert "split" not in caught.value.what


def test_other_data_is_refused_in_one_table_but_may_stand_beside(run_dir, tmp_path, small):
    other = build(tmp_path / "b", Simulation(seed=1, source="simulated-2", **small))
    with pytest.raises(RunDirectoryError, match="data hash"):
        load(run_dir, other)
    assert [run.data_name for run in load_each(run_dir, other)] == ["simulated", "simulated-2"]


def test_two_runs_of_one_protocol_share_a_table_with_ranks_of_both(run_dir, tmp_path, small):
    other = build(tmp_path / "b", Simulation(seed=1, sweep="simulated-second", **small))
    run = load(run_dir, other)
    assert set(run.trials["run"]) == {"simulated", "b"}
    for identity in run.confirmed().groupby("run")["id"].first():
        assert len(run.values(identity, "ndcg@10")) == small["users"]


def test_per_user_values_are_the_metric_of_the_ranks_in_the_file(run_dir):
    run = load(run_dir)
    found = run.per_user("tail", 0.5)
    assert found.values.shape == (3, 80)
    for row, identity in zip(found.values, found.trials["id"], strict=True):
        ranks = read_ranks(RunDirectory(run_dir).ranks_file(identity))["rank"]
        expected = [1 / np.log2(1 + r) if r <= 10 else 0.0 for r in ranks]
        np.testing.assert_allclose(row, expected)


def test_draws_of_one_seed_are_averaged(run_dir):
    run = load(run_dir)
    found = run.per_user("random", 0.25)
    assert found.values.shape == (9, 80)
    by_seed, keys = found.by_seed()
    assert keys == [(0, 100), (0, 101), (0, 102)]
    first = found.trials["seed"].to_numpy() == 100
    np.testing.assert_allclose(by_seed[0], found.values[first].mean(axis=0))


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_trial_whose_ranks_are_not_those_of_its_record_is_refused(run_dir, tmp_path, damage):
    root = copy(run_dir, tmp_path)
    before = load(root)
    identity = before.confirmed()["id"].iloc[0]
    path = RunDirectory(root).ranks_file(identity)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"x")
    run = load(root)
    assert identity not in set(run.trials["id"])
    assert len(run.trials) == len(before.trials) - 1
    assert run.refused["path"].tolist() == [f"trials/{identity}/ranks.parquet"]
    with pytest.raises((CorruptArtifactError, FileNotFoundError)):
        before.values(identity, "mrr")


def test_the_configuration_that_stands_for_an_arm_is_chosen_on_validation_data(run_dir):
    run = load(run_dir)
    frame = run.trials.copy()
    mine = frame.index[(frame["arm"] == "fisher") & (frame["phase"] == "confirm") & (frame["keep_ratio"] == 0.5)]
    frame.loc[mine[0], ["configuration", "validation.ndcg@10", "test.ndcg@10"]] = ["other", 0.0, 1.0]
    changed = type(run)(run.root, run.signature, run.plan, frame, run.curves, run.refused)
    assert mine[0] not in changed.chosen("fisher", 0.5).index
    frame.loc[mine[0], ["validation.ndcg@10", "test.ndcg@10"]] = [1.0, 0.0]
    changed = type(run)(run.root, run.signature, run.plan, frame, run.curves, run.refused)
    assert list(changed.chosen("fisher", 0.5).index) == [mine[0]]


@pytest.mark.parametrize(("kind", "word"), [("absent", "no such"), ("empty", "no run directory")])
def test_a_folder_that_is_no_run_directory_is_a_users_mistake(tmp_path, kind, word):
    root = tmp_path / "x"
    if kind == "empty":
        root.mkdir()
    with pytest.raises(RunDirectoryError, match=word):
        load(root)


@pytest.mark.parametrize("reader", [load, load_each])
def test_a_run_directory_counts_once(run_dir, reader):
    with pytest.raises(RunDirectoryError, match="given twice"):
        reader(run_dir, run_dir / ".." / run_dir.name)


def test_missing_plan_and_signature_are_noted(run_dir, tmp_path):
    root = copy(run_dir, tmp_path)
    (root / "plan.json").unlink()
    (root / "signature.json").write_text("{")
    run = load(root)
    assert any("plan.json is missing" in note for note in run.notes)
    assert any("signature.json cannot be read" in note for note in run.notes)
    assert run.settings["reference"] == "uniform"


def test_the_analysis_works_without_torch_and_ray_installed(run_dir):
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'ray', 'transformers', 'datasets'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from analysis import compare, load, sensitivity, write_report\n"
        f"print(len(compare(load({str(run_dir)!r}))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_plan_with_a_metric_that_no_trial_has_is_a_users_mistake(run_dir, tmp_path):
    root = copy(run_dir, tmp_path)
    plan = json.loads((root / "plan.json").read_text())
    plan["analysis"]["metric"] = "accuracy"
    write_json(root / "plan.json", plan)
    with pytest.raises(RunDirectoryError, match="no trial has the metric 'accuracy'"):
        load(root).per_user("fisher", 0.5)


def test_metrics_of_the_record_follow_from_its_ranks(run_dir):
    run = load(run_dir)
    row = run.confirmed().iloc[0]
    ranks = read_ranks(run.file(row["id"])[0])
    for name in ("ndcg@10", "hr@10", "mrr", "auc"):
        assert row[f"test.{name}"] == pytest.approx(metric_per_user(name, ranks["rank"], ranks["candidates"]).mean())


def test_a_metric_known_only_as_a_mean_has_the_interval_of_a_t_test_over_seeds(run_dir, tmp_path):
    root = copy(run_dir, tmp_path)
    plan = json.loads((root / "plan.json").read_text())
    plan["analysis"]["metric"] = "accuracy"
    write_json(root / "plan.json", plan)
    run = load(root)
    run.trials["test.accuracy"] = run.trials["test.ndcg@10"]
    row = compare(run).query("arm == 'fisher' and keep_ratio == 0.5").iloc[0]
    values = [run.chosen(arm, 0.5).set_index("seed")["test.ndcg@10"] for arm in ("fisher", "uniform")]
    expected = stats.ttest_rel(*values)
    assert row["p_value"] == pytest.approx(expected.pvalue, rel=1e-6)
    assert row["difference"] == pytest.approx((values[0] - values[1]).mean())
