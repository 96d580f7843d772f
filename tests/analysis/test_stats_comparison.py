"""Arms against a reference: every test is there, families are corrected as they should be, and counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from simulated_values import simulated
from statsmodels.stats.multitest import multipletests

from analysis.stats import Ledger, compare_arms, correct_together, holm


def test_compare_arms_holds_every_test_and_counts_it():
    values = simulated(np.random.default_rng(9), shifts=[0, 0.2, -0.2, 0, 0])
    ledger = Ledger()
    found = compare_arms(values, list("rabcd"), reference="r", metric="ndcg@10", ledger=ledger, n_flips=500)
    assert [c.arm for c in found] == list("abcd")
    assert ledger.counts() == {"planned": 16, "exploratory": 12, "not_run": 0, "total": 28}
    assert [c.adjusted_p for c in found] == pytest.approx(holm([c.difference.p_value for c in found]))
    assert found[0].difference.estimate == pytest.approx((values[1] - values[0]).mean())
    assert found[0].seeds_t.p_value == pytest.approx(stats.ttest_rel(values[1].mean(1), values[0].mean(1)).pvalue)
    assert found[1].non_inferiority_p > 0.9
    assert [c.inferiority_p for c in found] == pytest.approx(holm([1 - c.non_inferiority.p_value for c in found]))


def test_what_allows_no_claim_makes_no_room_for_others():
    values = simulated(np.random.default_rng(9), shifts=[0, 0.2, 0.05, 0, 0])
    plain = compare_arms(values, list("rabcd"), reference="r", metric="m", n_flips=100)
    alone = [replace(plain[0], drawn=3), *plain[1:]]
    ledger = Ledger()
    found = correct_together(alone, family="all", ledger=ledger)
    assert [c.adjusted_p for c in found[1:]] == pytest.approx(holm([c.difference.p_value for c in plain[1:]]))
    assert found[0].adjusted_p == pytest.approx(plain[0].difference.p_value)
    assert {row["family"] for row in ledger.rows()} >= {"all: difference", "all, these models only: difference"}


def test_strata_are_corrected_as_one_family():
    values = simulated(np.random.default_rng(12), n_arms=3, shifts=[0, 0.04, 0.02])
    strata = [compare_arms(v, list("rab"), reference="r", metric="m", n_flips=200) for v in (values, values + 0.01)]
    ledger = Ledger()
    together = [*strata[0], *strata[1]]
    found = correct_together(together, family="all", labels=["a 25 %", "b 25 %", "a 50 %", "b 50 %"], ledger=ledger)
    assert [c.adjusted_p for c in found] == pytest.approx(holm([c.difference.p_value for c in together]))
    assert ledger.counts()["planned"] == 16
    assert found[0].power.level == pytest.approx(0.05 / 4)
    assert found[0].power.detectable > together[0].power.detectable
    explored = correct_together(strata[0], family="all", planned=False)
    assert [c.adjusted_p for c in explored] == pytest.approx(
        stats.false_discovery_control([c.difference.p_value for c in strata[0]])
    )
    with pytest.raises(ValueError, match="must be different"):
        correct_together(together, family="all")
    with pytest.raises(ValueError, match="2 labels, but 4"):
        correct_together(together, family="all", labels=["a", "b"])


def test_students_of_one_label_are_one_test():
    values = simulated(np.random.default_rng(12), n_arms=4, n_seeds=6, shifts=[0, 0.04, 0.02, 0.06])
    values[2] = values[1]
    ledger = Ledger()
    found = compare_arms(values, list("rabc"), reference="r", metric="m", n_flips=200, ledger=ledger)
    assert [row["test"] for row in ledger.rows()[:2]] == ["a = b", "c"]
    expected = multipletests([found[0].difference.p_value, found[2].difference.p_value], method="holm")[1]
    assert [c.adjusted_p for c in found] == pytest.approx([expected[0], expected[0], expected[1]])
    assert {c.power.level for c in found} == {0.025}
    values[3] = values[0]
    found = compare_arms(values, list("rabc"), reference="r", metric="m", n_flips=200)
    assert [(c.same, c.group) for c in found] == [(False, "candidates")] * 2 + [(True, "same students")]
    assert found[0].adjusted_p == pytest.approx(found[0].difference.p_value)
    assert np.isnan([found[2].adjusted_p, found[2].non_inferiority_p, found[2].equivalence_p]).all()


def test_yardsticks_make_no_room_for_candidates():
    values = simulated(np.random.default_rng(9), shifts=[0, 0.9, 0.05, 0, 0])
    plain = compare_arms(values, list("rabcd"), reference="r", metric="m", n_flips=100)
    found = correct_together([replace(plain[0], candidate=False), *plain[1:]], family="all")
    assert [c.adjusted_p for c in found[1:]] == pytest.approx(
        multipletests([c.difference.p_value for c in plain[1:]], method="holm")[1]
    )
    assert found[0].adjusted_p == pytest.approx(plain[0].difference.p_value)
    assert found[1].power.level == pytest.approx(0.05 / 3)


def test_compare_arms_with_nothing_to_compare():
    values = np.random.default_rng(10).random((1, 3, 20))
    assert compare_arms(values, ["r"], reference="r", metric="m") == ()
    with pytest.raises(ValueError, match="not among"):
        compare_arms(values, ["r"], reference="uniform", metric="m")
    with pytest.raises(ValueError, match="names"):
        compare_arms(values, ["r", "s"], reference="r", metric="m")


def test_compare_arms_on_a_constant_metric_and_on_one_seed():
    constant = compare_arms(np.full((2, 3, 20), 0.5), ["r", "a"], reference="r", metric="m", n_flips=200)[0]
    assert (constant.difference.low, constant.difference.high) == (0, 0)
    assert (constant.same, np.isnan(constant.adjusted_p), constant.power) == (True, True, None)
    assert constant.equivalence.holds
    zero = compare_arms(np.zeros((2, 3, 20)), ["r", "a"], reference="r", metric="m", n_flips=200)[0]
    assert zero.non_inferiority is None
    assert zero.ratio is None
    one = compare_arms(np.random.default_rng(11).random((2, 1, 20)), ["r", "a"], reference="r", metric="m")[0]
    assert not one.difference.method_claim
    assert one.seed_effect is None
    assert np.isnan(one.seeds_t.p_value)
