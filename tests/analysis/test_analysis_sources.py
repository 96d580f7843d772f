"""Every number of every table can be followed to its records, and can be computed from them again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import conclude, load
from analysis.gallery import frames
from analysis.sources import IDS
from raydistill.records import RunDirectory, read_record


@pytest.fixture(scope="module")
def tables(run_dir) -> dict[str, pd.DataFrame]:
    return frames(conclude(load(run_dir)))


@pytest.fixture(scope="module")
def records(run_dir) -> dict:
    run = RunDirectory(run_dir)
    paths = run_dir.glob("trials/*/record.json")
    return {record.id: record for record in map(read_record, paths) if run.root}


def behind(tables, name, arm=None, ratio=None) -> list[str]:
    rows = tables["sources"]
    rows = rows[rows["table"] == name]
    rows = rows[rows["arm"] == arm] if arm else rows
    rows = rows[np.isclose(rows["keep_ratio"].astype(float), ratio)] if ratio else rows
    return [identity for ids in rows["trials"] for identity in ids]


def test_every_table_names_its_records_in_its_rows_or_in_the_sources(tables, records, run_dir):
    evidence = {path.name for path in (run_dir / "evidence").iterdir()}
    listed = set(tables["sources"]["table"])
    for name, table in tables.items():
        if name in ("tests", "refused_records", "sources"):
            continue
        columns = [column for column in IDS if column in table]
        assert bool(columns) != (name in listed), name
        for column in columns:
            for ids in table[column]:
                for identity in [ids] if isinstance(ids, str) else ids:
                    assert identity in (evidence if column == "evidence" else records), (name, identity)
    for ids in tables["sources"]["trials"]:
        assert len(ids)
        assert set(ids) <= set(records)


def test_costs_are_the_means_of_the_records_that_are_named(tables, records):
    row = tables["costs"].query("arm == 'fisher' and keep_ratio == 0.25").iloc[0]
    mine = [records[identity].cost for identity in behind(tables, "costs", "fisher", 0.25)]
    assert row["training_seconds"] == pytest.approx(np.mean([cost["training_seconds"] for cost in mine]))
    assert row["latency_ms"] == pytest.approx(np.mean([cost["latency_ms"]["1"]["p50"] for cost in mine]))


def test_training_curves_are_the_means_of_the_curves_of_the_records_that_are_named(tables, records):
    part = tables["training_curves"].query("arm == 'tail' and keep_ratio == 0.5 and epoch == 3")
    mine = [records[i].curves[2]["ndcg@10"] for i in behind(tables, "training_curves", "tail", 0.5)]
    assert part["mean"].iloc[0] == pytest.approx(np.mean(mine))


def test_budget_curves_end_at_the_best_of_the_records_that_are_named(tables, records):
    curve = tables["search_budget"].query("arm == 'uniform' and keep_ratio == 0.5")
    mine = [records[i].validation["ndcg@10"] for i in behind(tables, "search_budget", "uniform", 0.5)]
    assert len(curve) == len(mine)
    assert curve["mean"].iloc[-1] == pytest.approx(max(mine))
    assert curve["mean"].iloc[0] == pytest.approx(np.mean(mine))


def test_sensitivity_is_of_the_finished_trials_of_the_arm(tables, records):
    for arm in set(tables["sensitivity_curves"]["arm"]):
        mine = behind(tables, "sensitivity_curves", arm)
        counted = tables["sensitivity_curves"].query("arm == @arm and parameter == 'temperature'")["n"].sum()
        assert counted == len(mine)
        assert {records[i].status for i in mine} == {"success"}


def test_groups_name_the_student_and_the_teacher(tables, records):
    mine = behind(tables, "groups_of_users", "uniform", 0.25)
    assert {records[identity].arm for identity in mine} == {"uniform", "teacher"}


def test_speed_up_is_the_ratio_of_measured_latencies(tables, records):
    main = tables["main"]
    teacher = main[main["arm"] == "teacher"].iloc[0]
    for row in main.itertuples():
        if row.arm != "popularity":
            own = np.mean([records[i].cost["latency_ms"]["1"]["p50"] for i in row.trials])
            whole = np.mean([records[i].cost["latency_ms"]["1"]["p50"] for i in teacher["trials"]])
            assert row.speed_up == pytest.approx(whole / own)
        else:
            assert np.isnan(row.speed_up)
