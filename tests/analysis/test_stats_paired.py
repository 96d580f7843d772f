"""Paired tests, effect sizes, corrections and the ledger, against scipy, statsmodels and brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.stats import (
    Ledger,
    benjamini_hochberg,
    effect_size,
    holm,
    paired_difference,
    seed_effect_size,
    seed_t_test,
    sign_flip_test,
    sign_flip_tests,
    user_effect_size,
    user_t_test,
)


@pytest.fixture
def arms():
    rng = np.random.default_rng(0)
    easy = rng.random((1, 30))
    return easy + 0.1 * rng.standard_normal((5, 30)) + 0.02, easy + 0.1 * rng.standard_normal((5, 30))


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_seed_and_user_t_tests_are_scipys_paired_ones(arms, alternative):
    ours, theirs = arms
    seeds = stats.ttest_rel(ours.mean(1), theirs.mean(1), alternative=alternative)
    users = stats.ttest_rel(ours.mean(0), theirs.mean(0), alternative=alternative)
    assert seed_t_test(ours, theirs, alternative).p_value == pytest.approx(seeds.pvalue)
    assert user_t_test(ours, theirs, alternative).p_value == pytest.approx(users.pvalue)
    assert user_t_test(ours, theirs).statistic == pytest.approx(stats.ttest_rel(ours.mean(0), theirs.mean(0)).statistic)
    assert (seed_t_test(ours, theirs).n, user_t_test(ours, theirs).n) == (5, 30)


def test_one_sided_tests_point_the_right_way(arms):
    ours, theirs = arms
    better, worse = ours + 1, theirs
    for test in (seed_t_test, user_t_test, sign_flip_test):
        assert test(better, worse, alternative="greater").p_value < 0.05
        assert test(better, worse, alternative="less").p_value > 0.95
        assert test(worse, better, alternative="less").p_value < 0.05


def test_paired_data_are_tested_as_paired():
    """Users differ a lot, arms differ little and always: an unpaired test would see nothing."""
    rng = np.random.default_rng(1)
    easy = rng.random((3, 200))
    ours = easy + 0.01 + 0.005 * rng.standard_normal(easy.shape)
    unpaired = stats.ttest_ind(ours.mean(0), easy.mean(0)).pvalue
    assert unpaired > 0.3
    assert user_t_test(ours, easy).p_value < 1e-6
    assert seed_t_test(ours, easy).p_value < 1e-2


def test_unpaired_shapes_are_refused():
    with pytest.raises(ValueError, match="users must be the same"):
        seed_t_test(np.zeros((3, 5)), np.zeros((3, 6)))
    with pytest.raises(ValueError, match="seeds must be the same"):
        seed_t_test(np.zeros((3, 5)), np.zeros((2, 5)))
    assert paired_difference(np.ones((3, 5)), np.zeros((1, 5))).shape == (3, 5)


def test_one_seed_gives_no_p_value_over_seeds():
    result = seed_t_test(np.ones((1, 5)), np.zeros((1, 5)))
    assert np.isnan(result.p_value)
    assert result.unit == "users"
    assert seed_effect_size(np.ones((1, 5)), np.zeros((1, 5))) is None


@pytest.mark.parametrize(("shift", "p_value"), [(0.0, 1.0), (0.1, 0.0)])
def test_differences_without_variation_are_defined(shift, p_value):
    reference = np.full((4, 6), 0.3)
    assert seed_t_test(reference + shift, reference).p_value == p_value
    assert user_t_test(reference + shift, reference).p_value == p_value
    d = effect_size(np.full(5, shift)).cohens_d
    assert d == (np.inf if shift else 0.0)


def test_nan_is_refused():
    for function in (effect_size, sign_flip_tests):
        with pytest.raises(ValueError, match="NaN"):
            function(np.array([0.1, np.nan, 0.2]))


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_sign_flips_of_few_users_are_brute_force(alternative):
    differences = np.array([0.3, -0.1, 0.25, 0.0, 0.4, -0.05, 0.3])
    observed = differences.sum()
    sums = np.array([(np.array(signs) * differences).sum() for signs in product((-1, 1), repeat=7)])
    extreme = {
        "two-sided": np.abs(sums) >= abs(observed) - 1e-12,
        "greater": sums >= observed - 1e-12,
        "less": sums <= observed + 1e-12,
    }[alternative]
    assert sign_flip_tests(differences, alternative=alternative)[0].p_value == pytest.approx(extreme.mean())


def test_sign_flips_of_many_users_agree_with_scipys_permutation_test():
    differences = np.random.default_rng(2).standard_normal((2, 60)) + np.array([[0.0], [0.2]])
    ours = sign_flip_tests(differences, n_flips=20_000)
    for row, result in zip(differences, ours, strict=True):
        oracle = stats.permutation_test(
            (row,), np.mean, permutation_type="samples", n_resamples=20_000, vectorized=True, rng=3
        ).pvalue
        assert result.p_value == pytest.approx(oracle, abs=0.015)
        assert result.estimate == pytest.approx(row.mean())


def test_sign_flip_p_values_are_never_zero_and_ties_count():
    assert sign_flip_tests(np.ones(100), n_flips=999)[0].p_value == pytest.approx(1 / 1000)
    assert sign_flip_tests(np.zeros(100), n_flips=999)[0].p_value == 1.0


def test_effect_sizes_by_hand():
    differences = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    result = effect_size(differences)
    assert result.cohens_d == pytest.approx(3 / np.sqrt(2.5))
    # Hedges' J for 4 degrees of freedom: gamma(2) / (sqrt(2) gamma(1.5)) = 0.797885.
    assert result.hedges_g == pytest.approx(0.7978845608 * result.cohens_d)


def test_two_differences_have_no_hedges_g():
    result = effect_size(np.array([1.0, 2.0]))
    assert result.cohens_d == pytest.approx(1.5 / np.sqrt(0.5))
    assert np.isnan(result.hedges_g)
    assert np.isnan(effect_size(np.zeros(2)).hedges_g)
    assert np.isfinite(effect_size(np.array([1.0, 2.0, 4.0])).hedges_g)


@pytest.mark.parametrize("n", [3, 10, 60])
def test_effect_size_intervals_invert_the_noncentral_t(n):
    differences = np.random.default_rng(n).standard_normal(n) + 0.5
    result = effect_size(differences)
    t = result.cohens_d * np.sqrt(n)
    assert stats.nct.cdf(t, n - 1, result.low * np.sqrt(n)) == pytest.approx(0.975, abs=2e-3)
    assert stats.nct.cdf(t, n - 1, result.high * np.sqrt(n)) == pytest.approx(0.025, abs=2e-3)


def test_effect_size_over_users_uses_seed_averages(arms):
    ours, theirs = arms
    d = (ours - theirs).mean(0)
    assert user_effect_size(ours, theirs).cohens_d == pytest.approx(d.mean() / d.std(ddof=1))


def test_holm_by_hand():
    # 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, made monotone.
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_corrections_are_statsmodels():
    p_values = np.round(np.random.default_rng(4).random(20) ** 2, 2)  # rounded, so that some tie
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert benjamini_hochberg(p_values) == pytest.approx(multipletests(p_values, method="fdr_bh")[1])


def test_tests_that_could_not_be_run_do_not_count_in_a_correction():
    adjusted = holm([0.01, np.nan, 0.04])
    assert adjusted[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(adjusted[1])
    assert len(holm([])) == 0
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])


def test_the_ledger_counts_every_test_and_names_its_correction():
    ledger = Ledger()
    adjusted = ledger.enter("quality", {"a": 0.01, "b": 0.04, "c": float("nan")}, planned=True)
    ledger.enter("groups", {"short": 0.5, "long": 0.01}, planned=False)
    assert adjusted["a"] == pytest.approx(0.02)
    assert ledger.counts() == {"planned": 3, "exploratory": 2, "not_run": 1, "total": 5}
    assert [row["correction"] for row in ledger.rows()] == ["Holm", "Holm", "none", *["Benjamini-Hochberg"] * 2]
    assert "5 tests: 3 planned in 1 families (Holm), 2 exploratory" in ledger.sentence()
    with pytest.raises(ValueError, match="entered before"):
        ledger.enter("quality", {"d": 0.01}, planned=True)
