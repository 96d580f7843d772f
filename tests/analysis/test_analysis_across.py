"""Ranks over data sets: runs on the same data are one of them, and every test is written down."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.across import across
from analysis.stats import friedman

ARMS = ["fisher", "uniform", "tail"]
SETTINGS = {"metric": "ndcg@10", "reference": "uniform", "margin": 0.02, "level": 0.05}


def results(data: str, *means: tuple[float, ...], family: str = "gpt2", metric: str = "ndcg@10") -> SimpleNamespace:
    """Return the results of one run, with the means of the arms at 25 % of layers kept, 50 %, and so on."""
    rows = [
        {"keep_ratio": 0.25 * (i + 1), "arm": arm, "kind": "selector", "mean": mean}
        for i, values in enumerate(means)
        for arm, mean in zip(ARMS, values, strict=True)
    ]
    run = SimpleNamespace(
        settings={**SETTINGS, "metric": metric}, name="sweep", root=f"runs/{data}-{family}", data_name=data,
        direction="min" if metric == "log_loss" else "max",
        signature={"data": {"source": data, "hash": f"hash of {data}"}, "teacher": {"family": family}},
    )  # fmt: skip
    return SimpleNamespace(run=run, main=pd.DataFrame(rows))


def test_runs_on_the_same_data_are_one_data_set():
    found = across(
        [
            results("a", (0.3, 0.2, 0.1), family="gpt2"),
            results("a", (0.3, 0.1, 0.2), family="bert"),
            results("a", (0.3, 0.2, 0.1), family="llama"),
            results("b", (0.2, 0.3, 0.1)),
        ]
    )
    # Mean ranks on a are 1, 2.33 and 2.67: as ranks 1, 2 and 3.
    expected = np.array([[1, 2, 3], [2, 1, 3]])
    ranks = found.ranks.set_index("arm")
    assert ranks["mean_rank"].loc[ARMS].tolist() == pytest.approx(expected.mean(axis=0))
    assert set(ranks["data_sets"]) == {2}
    assert set(ranks["runs"]) == {4}
    assert ranks["p_value"].iloc[0] == pytest.approx(stats.friedmanchisquare(*expected.T).pvalue)
    assert ranks["critical_difference"].iloc[0] == pytest.approx(friedman(expected).critical_difference)
    assert found.sentences[0].startswith("25 % of layers kept, 2 data sets (4 runs): ")
    assert "2 data sets are few" in found.sentences[0]
    assert "4 runs of 2 data sets" in found.pictures[0].figure._supxlabel.get_text().replace("\n", " ")
    assert len(found.scores) == 4 * len(ARMS)


def test_one_data_set_has_ranks_and_no_test():
    found = across([results("a", (0.3, 0.2, 0.1), family=family) for family in ("gpt2", "bert", "llama")])
    assert found.ranks["mean_rank"].tolist() == [1, 2, 3]
    assert found.ranks[["p_value", "p_adjusted", "critical_difference"]].isna().all().all()
    assert set(found.ranks["data_sets"]) == {1}
    assert found.sentences == [
        "25 % of layers kept, 1 data set (3 runs): Fisher has the best mean rank (1.00 of 3). All runs are of the same "
        "data, so nothing is claimed over data sets."
    ]
    assert not found.pictures
    assert found.tests.empty


def test_arms_that_share_the_best_rank_are_all_named_the_cheapest_first():
    found = across([results("a", (0.3, 0.2, 0.3)), results("b", (0.3, 0.2, 0.3))])
    assert "drop the last, Fisher share the best mean rank (1.50 of 3)" in found.sentences[0]


def test_runs_whose_data_nobody_knows_are_no_data_sets_of_their_own():
    unknown = [results(name, (0.3, 0.2, 0.1)) for name in ("a", "b")]
    for one in unknown:
        one.run.signature, one.run.data_name = {}, "unknown data"
    assert set(across(unknown).ranks["data_sets"]) == {1}


def test_distinct_data_sets_are_ranked_by_their_scores_in_the_direction_of_the_metric():
    scores = np.random.default_rng(0).random((6, 3))
    for metric, direction in (("ndcg@10", "max"), ("log_loss", "min")):
        found = across([results(f"d{i}", tuple(row), metric=metric) for i, row in enumerate(scores)])
        oracle = friedman(scores, direction=direction)
        assert found.ranks.set_index("arm")["mean_rank"].loc[ARMS].tolist() == pytest.approx(oracle.mean_ranks)
        assert found.ranks["p_value"].iloc[0] == pytest.approx(oracle.p_value)
        assert found.sentences[0].startswith("25 % of layers kept, 6 data sets: ")
        assert "few" not in found.sentences[0]


def test_every_test_is_written_down_and_corrected_over_the_keep_ratios():
    scores = np.random.default_rng(1).random((5, 2, 3)) + np.array([0.0, 0.4, 0.9])
    found = across([results(f"d{i}", *map(tuple, one)) for i, one in enumerate(scores)])
    oracles = [friedman(scores[:, i]) for i in range(2)]
    tests = found.tests.set_index("family")
    of_all = tests.loc["all arms are equal over data sets (Friedman)"].set_index("test")
    assert of_all["p_value"].tolist() == pytest.approx([oracle.p_value for oracle in oracles])
    assert of_all["adjusted"].tolist() == pytest.approx(stats.false_discovery_control(of_all["p_value"]))
    for ratio, oracle in zip((25, 50), oracles, strict=True):
        adjusted = of_all.loc[f"{ratio} % of layers kept", "adjusted"]
        ranks = found.ranks[found.ranks["keep_ratio"] == ratio / 100]
        assert set(ranks["p_adjusted"]) == {adjusted}
        assert f"p = {adjusted:.2g}" in found.sentences[ratio // 25 - 1]
        pairs = tests.loc[f"pairs of arms over data sets (Nemenyi), {ratio} % of layers kept"].set_index("test")
        # Arms stand in the order of the alphabet: fisher, tail, uniform.
        wanted = {"fisher against tail": (0, 2), "fisher against uniform": (0, 1), "tail against uniform": (2, 1)}
        assert set(pairs.index) == set(wanted)
        for name, place in wanted.items():
            assert pairs.loc[name, "adjusted"] == pytest.approx(oracle.pairwise_p[place])
