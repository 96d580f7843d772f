"""One set of students under several names: named together, tested once, never tested against itself."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from fake_run import Simulation, build, share
from statsmodels.stats.multitest import multipletests

from analysis import compare, conclude, load
from analysis.gallery import frames, pictures, same_sentence
from analysis.headline import headline
from analysis.report.extra import more_tables
from analysis.stats import Ledger
from analysis.students import cheapest_first, namesakes
from raydistill.records import RunDirectory, read_ranks, read_record, write_ranks, write_record

FEW = {"selectors": ("fisher", "gradient", "attention", "uniform", "tail", "random"), "trials": 1, "seeds": 3,
       "draws": 2, "users": 60, "items": 80, "epochs": 2, "keep_ratios": (0.25, 0.5)}  # fmt: skip
SHARED = ("tail", "fisher", "gradient")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a run in which fisher and gradient chose what tail chooses, which is best, and attention what uniform."""
    quality = {"teacher": 0.5, "tail": 0.9, "popularity": -1.2, "scratch": -0.5}
    root = build(tmp_path_factory.mktemp("same") / "run", Simulation(quality=quality, **FEW))
    for arm in SHARED[1:]:
        share(root, "tail", arm)
    share(root, "uniform", "attention")
    return root


@pytest.fixture(scope="module")
def results(root):
    return conclude(load(root))


def test_arms_without_evidence_come_first():
    assert cheapest_first(["fisher", "tail", "no_kd", "uniform"]) == ("uniform", "tail", "fisher", "no_kd")


def test_the_best_students_are_named_by_all_their_names_the_cheapest_first(results):
    text = " ".join(headline(results))
    assert "drop the last = Fisher = gradient (the same students) have the best mean" in text
    assert "attention gave exactly the students of uniform (the same layers)" in text
    assert set(results.best_selector.values()) == {"tail"}
    assert results.main.query("keep_ratio == 0.5")["arm"].tolist()[:3] == list(SHARED)


def test_different_sets_of_students_are_counted_and_not_names(results):
    undecided = results.reference.assign(word="undecided")
    undecided.loc[results.reference["word"] == "same students", "word"] = "same students"
    text = " ".join(headline(replace(results, reference=undecided)))
    assert "1 of 1 different sets of students (under 3 names) is not shown to be better or worse" in text


def test_each_set_of_students_is_one_test(root):
    ledger = Ledger()
    frame = compare(load(root), ledger=ledger)
    candidates = frame[frame["group"] == "candidates"]
    once = candidates[~candidates["arm"].isin(SHARED[1:])]
    assert set(once["arm"]) == {"tail", "scratch", "scratch_kd", "no_kd"}
    for raw, column in (("p_value", "p_adjusted"), (None, "p_inferior")):
        entered = [
            e for e in ledger.entries if e.family == f"against uniform: {'difference' if raw else 'inferiority'}"
        ]
        assert len(entered) == len(once)
        adjusted = multipletests([e.p_value for e in entered], method="holm")[1]
        assert sorted(once[column]) == pytest.approx(sorted(adjusted))
    for _, part in candidates[candidates["arm"].isin(SHARED)].groupby("keep_ratio"):
        assert part["p_adjusted"].nunique() == 1
        assert set(part["names"]) == {SHARED}
    assert "tail = fisher = gradient, 50 % of layers kept" in {entry.test for entry in ledger.entries}


def test_the_reference_is_never_tested_against_itself(root):
    ledger = Ledger()
    frame = compare(load(root), ledger=ledger)
    twin = frame[frame["arm"] == "attention"]
    assert set(twin["word"]) == {"same students"}
    assert set(twin["sentence"]) == {"the same students as uniform, under another name: there is nothing to test"}
    assert twin[["p_adjusted", "p_non_inferior", "p_inferior", "p_equivalent", "detectable_low"]].isna().all().all()
    assert not any("attention" in entry.test for entry in ledger.entries)


def test_teacher_and_popularity_are_corrected_apart_from_what_can_be_chosen(root):
    frame = compare(load(root))
    yardsticks = frame[frame["group"] == "yardsticks"]
    assert set(yardsticks["arm"]) == {"teacher", "popularity"}
    expected = multipletests(yardsticks["p_value"], method="holm")[1]
    assert yardsticks["p_adjusted"].to_numpy() == pytest.approx(expected)


def test_equal_values_alone_do_not_make_the_same_students(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "run")
    run = RunDirectory(copy)
    for identity in load(copy).chosen("fisher", 0.5)["id"]:
        record, ranks = read_record(run.record_file(identity)), read_ranks(run.ranks_file(identity))
        digest = write_ranks(run.ranks_file(identity), ranks | {"top": ranks["top"][:, ::-1].copy()})
        write_record(run.record_file(identity), replace(record, ranks_sha256=digest))
    loaded = load(copy)
    names = namesakes({arm: loaded.chosen(arm, 0.5) for arm in SHARED})
    assert names == {"tail": ("tail", "gradient"), "gradient": ("tail", "gradient"), "fisher": ("fisher",)}
    frame = compare(loaded, "tail").query("keep_ratio == 0.5").set_index("arm")
    assert (frame.loc["fisher", "difference"], frame.loc["fisher", "word"]) == (0, "equivalent")
    assert frame.loc["gradient", "word"] == "same students"


def test_figures_and_tables_name_each_set_once(results):
    tables = frames(results)
    sentence = same_sentence(tables["main"])
    assert "drop the last = Fisher = gradient (at 25 % and 50 %)" in sentence
    assert "uniform = attention (at 25 % and 50 %)" in sentence
    compression = next(p for p in pictures(results, tables) if p.name == "compression")
    assert sentence in compression.text
    labels = {text.get_text() for panel in compression.figure.axes for text in panel.texts}
    assert {"drop the last (+2)", "uniform (+1)"} <= labels
    assert not {"Fisher", "gradient", "attention"} & labels
    tests = next(t for t in more_tables(results, tables) if t["name"] == "against_reference")["table"]
    assert tests.count("drop the last = Fisher = gradient") == 2  # one row a keep-ratio
    places = [tests.index(f"<h4>{title}") for title in ("Candidates", "Yardsticks", "These models only", "The same")]
    assert places == sorted(places)
    assert "p of worse by more than the margin" in tests
    assert places[2] < tests.index(">random<") < places[3]


def test_groups_of_users_are_tested_once_a_set(results):
    entries = [entry.test for entry in results.ledger.entries if entry.family == "groups against teacher"]
    assert any(test.startswith(("tail = ", "tail,")) for test in entries)
    assert len(entries) == len(set(entries))
    assert np.isfinite(results.groups["p_adjusted"]).all()
