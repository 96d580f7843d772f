"""Margins, placements, power and verdict families: hand-worked, against statsmodels, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scikit_posthocs import posthoc_nemenyi_friedman
from scipy import stats
from simulated_values import simulated
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from analysis.stats import (
    crossed_mean,
    detection_power,
    equivalence,
    friedman,
    holm,
    minimum_detectable_effect,
    non_inferiority,
    place_in_draws,
    power_analysis,
    replicates_needed,
)


def seeds_only(*seed_means):
    """Return `[seed, user]` in which seeds are all that varies, so that oracles over seeds apply."""
    return np.repeat(np.array(seed_means, dtype=float)[:, None], 4, axis=1)


def interval(hits: int, n: int):
    return stats.binomtest(hits, n).proportion_ci(0.99, method="exact")


def test_non_inferiority_is_the_one_sided_t_test_against_the_margin():
    ours, theirs = np.array([0.50, 0.52, 0.49, 0.51, 0.505]), np.array([0.51, 0.515, 0.50, 0.505, 0.51])
    result = non_inferiority(seeds_only(*ours), seeds_only(*theirs), margin=0.02)
    oracle = stats.ttest_1samp(ours - 0.98 * theirs, 0, alternative="greater")
    assert result.p_value == pytest.approx(oracle.pvalue, rel=1e-6)
    assert result.relative == pytest.approx((ours.mean() - theirs.mean()) / theirs.mean())
    assert result.holds == (result.p_value <= 0.05)


def test_non_inferiority_follows_the_direction_of_the_metric():
    rng = np.random.default_rng(0)
    reference = 0.5 + 0.01 * rng.standard_normal((5, 200))
    much_higher, much_lower = reference * 1.2, reference * 0.8
    assert non_inferiority(much_higher, reference, margin=0.02, direction="max").holds
    assert not non_inferiority(much_lower, reference, margin=0.02, direction="max").holds
    assert non_inferiority(much_lower, reference, margin=0.02, direction="min").holds
    assert not non_inferiority(much_higher, reference, margin=0.02, direction="min").holds
    assert non_inferiority(much_lower, reference, margin=0.02, direction="min").relative == pytest.approx(0.2)
    assert non_inferiority(much_lower, reference, margin=0.02, direction="max").p_value > 0.95


def test_no_significant_difference_is_not_equivalence():
    rng = np.random.default_rng(1)
    reference = 0.5 + 0.1 * rng.standard_normal((3, 50))
    noisy = reference + 0.1 * rng.standard_normal((3, 1)) - 0.02
    assert crossed_mean(noisy - reference).p_value() > 0.05
    assert not equivalence(noisy, reference, margin=0.02).holds


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    ours, theirs = np.array([0.50, 0.502, 0.499, 0.501]), np.array([0.5, 0.501, 0.50, 0.5005])
    result = equivalence(seeds_only(*ours), seeds_only(*theirs), margin=0.02)
    above = stats.ttest_1samp(ours - 0.98 * theirs, 0, alternative="greater").pvalue
    below = stats.ttest_1samp(ours - 1.02 * theirs, 0, alternative="less").pvalue
    assert result.p_value == pytest.approx(max(above, below), rel=1e-6)
    assert result.holds


def test_identical_arms_are_equivalent_and_not_inferior():
    reference = np.random.default_rng(2).random((3, 40))
    assert equivalence(reference, reference, margin=0.02).holds
    assert non_inferiority(reference, reference, margin=0.02).holds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": 0.0}, "margin"),
        ({"margin": 2}, "margin"),
        ({"direction": "up"}, "direction"),
        ({"reference": -np.ones((2, 3))}, "above 0"),
        ({"reference": np.zeros((2, 3))}, "above 0"),
    ],
)
def test_margins_that_mean_nothing_are_refused(changes, message):
    arguments = {"values": np.ones((2, 3)), "reference": np.ones((2, 3)), "margin": 0.02, **changes}
    with pytest.raises(ValueError, match=message):
        non_inferiority(arguments.pop("values"), arguments.pop("reference"), **arguments)


def test_false_non_inferiority_stays_at_its_level():
    """The arm is worse by exactly the margin: the claim is false and may be made in 5 % at most."""
    rng = np.random.default_rng(3)
    n, claimed = 1000, 0
    for _ in range(n):
        reference = 0.5 + 0.2 * rng.standard_normal((1, 40)) + 0.01 * rng.standard_normal((5, 1))
        values = 0.98 * reference + 0.01 * rng.standard_normal((5, 1)) + 0.05 * rng.standard_normal((5, 40))
        claimed += non_inferiority(values, reference, margin=0.02).holds
    assert interval(claimed, n).low <= 0.05


def test_place_in_draws_by_hand():
    place = place_in_draws(0.5, [0.1, 0.2, 0.5, 0.6])
    assert place.percentile == pytest.approx(0.625)  # two worse, one tie counted half, of four
    assert place.p_value == pytest.approx(3 / 5)  # two at least as good
    assert place.smallest_p_value == pytest.approx(1 / 5)
    # The tie may be worse or not; Clopper and Pearson's interval of each.
    ends = [proportion_confint(count, 4, method="beta") for count in (2, 3)]
    assert (place.low, place.high) == pytest.approx((ends[0][0], ends[1][1]))
    best = place_in_draws(0.7, [0.1, 0.2, 0.5, 0.6], level=0.1)
    assert best.p_value == pytest.approx(1 / 5)
    assert (best.low, best.high) == pytest.approx(proportion_confint(4, 4, alpha=0.1, method="beta"))
    assert place_in_draws(0.05, [0.1, 0.2], direction="min").p_value == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="empty"):
        place_in_draws(0.5, [])


def test_place_in_draws_is_uniform_for_one_more_random_draw():
    rng = np.random.default_rng(4)
    p_values = [place_in_draws(d[0], d[1:]).p_value for d in rng.random((2000, 10))]
    counts = np.bincount(np.round(np.array(p_values) * 10).astype(int), minlength=11)[1:]
    assert stats.chisquare(counts).pvalue > 0.001


# Scores of Demšar (2006), table 6: AUC of four trees on 14 data sets.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def test_friedman_reproduces_demsars_example():
    result = friedman(DEMSAR)
    assert result.mean_ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=1e-3)
    assert result.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert result.p_value == pytest.approx(stats.friedmanchisquare(*DEMSAR.T).pvalue)
    assert result.pairwise_p == pytest.approx(posthoc_nemenyi_friedman(DEMSAR).to_numpy())
    assert result.cliques == ((3, 1, 2, 0),)


def test_friedman_ranks_in_the_direction_of_the_metric_and_finds_groups():
    scores = np.tile([0.9, 0.89, 0.5, 0.1], (40, 1)) + np.arange(40)[:, None]
    scores[::2, :2] = scores[::2, 1::-1]  # the first two take turns
    result = friedman(scores)
    assert result.cliques == ((0, 1),)
    assert friedman(-scores, direction="min").mean_ranks == pytest.approx(result.mean_ranks)


def test_friedman_where_all_tie_and_where_there_is_too_little():
    result = friedman(np.full((4, 3), 0.5))
    assert result.p_value == 1.0
    assert result.cliques == ((0, 1, 2),)
    for shape in ((1, 3), (4, 2)):
        with pytest.raises(ValueError, match="2 data sets and 3 arms"):
            friedman(np.zeros(shape))


@pytest.mark.parametrize(("effect", "n"), [(0.5, 3), (1.0, 5), (1.2, 10), (0.3, 100)])
def test_power_is_that_of_the_paired_t_test(effect, n):
    oracle = TTestPower().power(effect, n, 0.05)
    assert detection_power(effect, 1.0, n) == pytest.approx(oracle, abs=2e-3)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_the_detectable_effect_is_statsmodels(n):
    oracle = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert minimum_detectable_effect(2.0, n) == pytest.approx(2 * oracle, rel=5e-3)


@pytest.mark.parametrize("effect", [0.3, 0.8, 2.0])
def test_needed_replicates_are_statsmodels_rounded_up(effect):
    oracle = TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)
    assert replicates_needed(effect, 1.0) == int(np.ceil(oracle))


def test_no_number_of_seeds_mends_too_few_users():
    assert replicates_needed(0.1, 1.0, user_error=0.1) is None
    assert replicates_needed(1.0, 0.0) == 2
    assert minimum_detectable_effect(0.0, 3) == 0.0


def test_power_of_the_crossed_test_by_simulation():
    rng = np.random.default_rng(5)
    n, found, shape = 1500, 0, (4, 50)
    for _ in range(n):
        values = 0.9 + 0.5 * rng.standard_normal((4, 1)) + rng.standard_normal((1, 50)) + rng.standard_normal(shape)
        found += crossed_mean(values).p_value() <= 0.05
    theory = detection_power(0.9, np.sqrt(0.25 + 1 / 50), 4, user_error=np.sqrt(1 / 50))
    low, high = interval(found, n)
    assert low <= theory <= high


def test_power_analysis_counts_what_is_missing():
    values = np.random.default_rng(6).normal(0, 0.1, (5, 1)) + np.zeros((5, 30))
    result = power_analysis(values, effect=-0.05)
    deviation = values[:, 0].std(ddof=1)
    assert result.needed == replicates_needed(0.05, deviation)
    assert result.more == result.needed - 5
    assert result.detectable == pytest.approx(minimum_detectable_effect(deviation, 5))
    ends = [np.sqrt(4 * deviation**2 / stats.chi2.ppf(tail, 4)) for tail in (0.975, 0.025)]
    assert result.more_range == tuple(max(replicates_needed(0.05, end) - 5, 0) for end in ends)
    assert result.detectable_range == pytest.approx([minimum_detectable_effect(end, 5) for end in ends])
    assert result.more_range[0] < result.more < result.more_range[1]
    assert result.is_known
    assert not power_analysis(values[:4], effect=0.05).is_known
    assert power_analysis(values, effect=10.0).more == 0
    one = power_analysis(values[:1], effect=0.05)
    assert (one.detectable, one.needed, one.more) == (np.inf, None, None)
    with pytest.raises(ValueError, match="effect"):
        power_analysis(values, effect=0.0)


def crossed_family(values):
    return np.array([crossed_mean(arm - values[0]).p_value() for arm in values[1:]])


def test_family_wise_error_stays_at_its_level_and_without_correction_it_would_not():
    rng = np.random.default_rng(7)
    n = 600
    raw = np.array([crossed_family(simulated(rng)) for _ in range(n)])
    corrected = np.array([holm(row) for row in raw])
    assert interval(int((corrected.min(axis=1) <= 0.05).sum()), n).low <= 0.05
    assert interval(int((raw.min(axis=1) <= 0.05).sum()), n).low > 0.05


def test_tests_over_users_alone_would_claim_methods_that_are_luck_of_the_seed():
    """Why Wilcoxon (or t) over thousands of users is no proof: two equal methods, trained on three seeds."""
    rng = np.random.default_rng(8)
    n, users_only, ours = 200, 0, 0
    for _ in range(n):
        seeds = 0.02 * rng.standard_normal((3, 1))
        difference = seeds + 0.1 * rng.standard_normal((3, 2000))
        users_only += stats.wilcoxon(difference.mean(axis=0)).pvalue <= 0.05
        ours += crossed_mean(difference).p_value() <= 0.05
    assert users_only / n > 0.5
    assert interval(ours, n).low <= 0.05
