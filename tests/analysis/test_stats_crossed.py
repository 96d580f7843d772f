"""Crossed means and the bootstrap: against ANOVA tables, scipy's tests, brute force, and by simulated coverage."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.anova import anova_lm

from analysis.stats import bootstrap_difference, crossed_bootstrap, crossed_mean
from analysis.stats.bootstrap import _replicate_weights, _resampled_means, user_weights


def draw(rng, n_seeds, n_users, seed_sd, user_sd, residual_sd, mean=0.0):
    return (
        mean
        + seed_sd * rng.standard_normal((n_seeds, 1))
        + user_sd * rng.standard_normal((1, n_users))
        + residual_sd * rng.standard_normal((n_seeds, n_users))
    )


def below_or_covered(hits: int, n: int, rate: float) -> bool:
    """Return whether the Clopper-Pearson interval (99 %) of `hits / n` covers `rate` or lies below it."""
    return stats.binomtest(hits, n).proportion_ci(0.99, method="exact").low <= rate


def test_mean_squares_are_those_of_statsmodels():
    values = draw(np.random.default_rng(0), 4, 9, 0.5, 1.0, 0.7)
    frame = pd.DataFrame({"y": values.ravel(), "seed": np.repeat(np.arange(4), 9), "user": np.tile(np.arange(9), 4)})
    table = anova_lm(smf.ols("y ~ C(seed) + C(user)", frame).fit())
    mean = crossed_mean(values)
    size = values.size
    assert mean.seed_part == pytest.approx(table.mean_sq["C(seed)"] / size)
    assert mean.user_part == pytest.approx((table.mean_sq["C(user)"] - table.mean_sq["Residual"]) / size)
    assert mean.residual_variance == pytest.approx(table.mean_sq["Residual"])
    assert mean.seed_variance == pytest.approx((table.mean_sq["C(seed)"] - table.mean_sq["Residual"]) / 9)


def test_without_user_variance_it_is_the_t_test_over_seeds():
    seeds = np.random.default_rng(1).standard_normal(5)
    mean = crossed_mean(np.repeat(seeds[:, None], 7, axis=1))
    oracle = stats.ttest_1samp(seeds, 0)
    assert mean.p_value() == pytest.approx(oracle.pvalue, rel=1e-6)
    assert mean.interval(0.1) == pytest.approx(tuple(oracle.confidence_interval(0.9)))
    for side in ("greater", "less"):
        assert mean.p_value(alternative=side) == pytest.approx(stats.ttest_1samp(seeds, 0, alternative=side).pvalue)


def test_one_seed_is_the_t_test_over_users_and_claims_no_method():
    users = np.random.default_rng(2).standard_normal(40) + 0.3
    mean = crossed_mean(users[None])
    assert mean.p_value() == pytest.approx(stats.ttest_1samp(users, 0).pvalue, rel=1e-6)
    interval = crossed_bootstrap(users[None, None]).means[0]
    assert interval.unit == "users"
    assert not interval.method_claim
    assert crossed_bootstrap(np.stack([users, users])[None]).means[0].method_claim


def test_the_p_value_is_the_level_at_which_the_interval_touches():
    mean = crossed_mean(draw(np.random.default_rng(3), 4, 30, 0.2, 1, 1, mean=0.7))
    p_value = mean.p_value()
    assert 1e-6 < p_value < 0.4
    assert mean.interval(p_value)[0] == pytest.approx(0, abs=1e-6)


def test_far_away_means_have_tiny_p_values_without_trouble():
    mean = crossed_mean(draw(np.random.default_rng(4), 10, 500, 1e-6, 1e-6, 1e-6, mean=1.0))
    assert mean.p_value() < 1e-30
    assert mean.p_value(alternative="less") == pytest.approx(1.0)


def test_teachers_are_the_unit_where_there_are_several():
    rng = np.random.default_rng(5)
    values = draw(rng, 3, 20, 1, 1, 0)[:, None, :] + 0.1 * rng.standard_normal((3, 4, 20))
    mean = crossed_mean(values)
    assert (mean.unit, mean.n_replicates) == ("teachers", 3)
    assert mean == crossed_mean(values)
    by_teacher = crossed_mean(values.mean(axis=1))
    assert mean.half_width() == pytest.approx(by_teacher.half_width())
    # Twelve seeds taken as independent would claim far more than three teachers support.
    assert mean.half_width() > 1.5 * crossed_mean(values.reshape(12, 20)).half_width()
    assert crossed_mean(values[:1]).unit == "seeds"


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3])
@pytest.mark.parametrize("n_seeds", [1, 2, 5])
def test_a_constant_metric_has_an_interval_of_no_width(constant, n_seeds):
    mean = crossed_mean(np.full((n_seeds, 30), constant))
    assert mean.standard_error == 0
    assert mean.p_value(null=constant) == 1.0
    assert mean.p_value(null=constant, alternative="greater") == 1.0
    assert mean.p_value(null=-1.0) == 0.0
    interval = crossed_bootstrap(np.full((1, n_seeds, 30), constant)).means[0]
    assert interval.low == interval.estimate == interval.high == constant


def test_identical_arms_differ_by_exactly_nothing():
    arm = np.random.default_rng(6).random((3, 50))
    difference = crossed_bootstrap(np.stack([arm, arm]), reference=0).differences[1]
    assert (difference.low, difference.estimate, difference.high, difference.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), "axes"),
        (np.array([[0.0, np.nan]]), "NaN"),
        (np.zeros((2, 1)), "at least two"),
        (np.zeros((0, 3)), "empty"),
    ],
)
def test_unusable_arrays_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        crossed_mean(array)


def test_bootstrap_arguments_are_checked():
    values = np.random.default_rng(7).random((2, 3, 4))
    with pytest.raises(ValueError, match="2 arms"):
        crossed_bootstrap(values, reference=2)
    with pytest.raises(ValueError, match="at least 100"):
        crossed_bootstrap(values, n_resamples=10)
    with pytest.raises(ValueError, match="error rate"):
        crossed_bootstrap(values, level=0.95)


def test_resampled_means_are_those_of_index_gathers():
    rng = np.random.default_rng(8)
    values = rng.random((3, 2, 4, 11))
    seed, n_resamples = 9, 150
    fast = _resampled_means(values, n_resamples, np.random.default_rng(seed))
    again = np.random.default_rng(seed)
    replicate = _replicate_weights((2, 4), n_resamples, again).reshape(n_resamples, 2, 4)
    users = np.concatenate([weights for _, weights in user_weights(11, n_resamples, again)])
    for row in (0, 63, 64, 149):
        chosen = np.repeat(np.arange(11), users[row].astype(int))
        gathered = values[..., chosen].mean(axis=-1)
        assert fast[row] == pytest.approx((gathered * replicate[row]).sum(axis=(1, 2)))


def test_replicate_weights_draw_teachers_first_and_seeds_inside():
    weights = _replicate_weights((3, 4), 4000, np.random.default_rng(10)).reshape(-1, 3, 4)
    assert weights.sum(axis=(1, 2)) == pytest.approx(1.0)
    teachers = weights.sum(axis=2)
    # Multinomial shares of 3 draws have variance (1/3)(2/3)/3.
    assert teachers.mean(axis=0) == pytest.approx(1 / 3, abs=0.02)
    assert teachers.var(axis=0) == pytest.approx(2 / 27, rel=0.1)
    assert set(np.unique(np.round(teachers * 3, 9))) == {0.0, 1.0, 2.0, 3.0}


def test_spread_of_resamples_is_owens():
    """Owen (2007): about var(a)/R (1 - 1/R) + var(b)/C (1 - 1/C) + 3 var(e)/(R C); here exactly, from the sample."""
    values = draw(np.random.default_rng(11), 6, 40, 0.5, 1.0, 1.0)
    seeds, users = values.mean(1) - values.mean(), values.mean(0) - values.mean()
    residual = values - values.mean() - seeds[:, None] - users
    # The sample's own parts; its row and column means already hold two of the residual's three shares.
    expected = (seeds**2).mean() / 6 + (users**2).mean() / 40 + (residual**2).mean() / 240
    spread = crossed_bootstrap(values[None], n_resamples=8000).resampled[:, 0].var()
    assert spread == pytest.approx(expected, rel=0.08)


def test_the_ratio_follows_fieller():
    """The delta method and Fieller's exact interval agree where the denominator is far from 0."""
    rng = np.random.default_rng(12)
    seeds = 5 + 0.1 * rng.standard_normal((2, 8))
    values = np.repeat(seeds[:, :, None], 3, axis=2)
    ratio = crossed_bootstrap(values, reference=0).ratios[1]
    x, y = seeds[1], seeds[0]
    t = stats.t.isf(0.025, 7)

    def excess(r):
        d = x - r * y
        return d.mean() ** 2 - t**2 * d.var(ddof=1) / 8

    grid = np.linspace(0.9, 1.1, 20001)
    inside = grid[[excess(r) <= 0 for r in grid]]
    assert ratio.high - ratio.low == pytest.approx(inside[-1] - inside[0], rel=0.01)
    assert ratio.p_value == pytest.approx(stats.ttest_rel(x, y).pvalue, rel=0.05)


def test_no_ratio_without_a_positive_reference():
    values = np.random.default_rng(13).standard_normal((2, 3, 20))
    values[0] -= values[0].mean() + 1
    assert crossed_bootstrap(values, reference=0).ratios is None


def test_a_reference_with_one_seed_stands_against_every_seed():
    rng = np.random.default_rng(14)
    values, reference = rng.random((4, 30)), rng.random((1, 30))
    difference = bootstrap_difference(values, reference)
    assert difference.estimate == pytest.approx((values - reference).mean())
    assert difference.unit == "seeds"


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    values = np.random.default_rng(15).random((2, 3, 40))
    assert crossed_bootstrap(values, seed=1).means == crossed_bootstrap(values, seed=1).means
    assert crossed_bootstrap(values, seed=1).means != crossed_bootstrap(values, seed=2).means


def test_skewed_users_give_a_skewed_interval():
    users = np.random.default_rng(16).exponential(size=(1, 1, 30)) ** 2
    interval = crossed_bootstrap(users).means[0]
    assert interval.high - interval.estimate > 1.1 * (interval.estimate - interval.low)


# Which variance dominates: seeds, users, the residual, or all three.
WORLDS = [(1.0, 0.0, 0.1), (0.0, 1.0, 0.1), (0.0, 0.1, 1.0), (0.3, 1.0, 1.0)]


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
@pytest.mark.parametrize("world", WORLDS)
def test_the_crossed_interval_covers_at_its_level(n_seeds, world):
    rng = np.random.default_rng([17, n_seeds, WORLDS.index(world)])
    n = 1000
    missed = sum(abs((m := crossed_mean(draw(rng, n_seeds, 40, *world))).estimate) > m.half_width() for _ in range(n))
    assert below_or_covered(missed, n, 0.05)


def test_the_crossed_interval_is_not_needlessly_wide_with_five_seeds():
    rng = np.random.default_rng(18)
    n = 2000
    missed = sum(abs((m := crossed_mean(draw(rng, 5, 40, 0.3, 1, 1))).estimate) > m.half_width() for _ in range(n))
    assert missed / n > 0.02


@pytest.mark.parametrize("n_seeds", [2, 5])
def test_bootstrap_intervals_cover_where_the_percentile_bootstrap_does_not(n_seeds):
    """Binary metric over 200 users, seeds that matter: what a hit rate looks like."""
    rng = np.random.default_rng([19, n_seeds])
    n, missed, naive = 300, 0, 0
    sd = np.hypot(0.05, 0.1)
    truth = 0.2 * stats.norm.cdf(0.2 / sd) + sd * stats.norm.pdf(0.2 / sd)  # mean of a normal clipped at 0
    for _ in range(n):
        easy, good = rng.normal(0.2, 0.05, (1, 200)), rng.normal(0, 0.1, (n_seeds, 1))
        values = (rng.random((n_seeds, 200)) < np.clip(easy + good, 0, 1)).astype(float)[None]
        result = crossed_bootstrap(values, n_resamples=400)
        interval = result.means[0]
        missed += not interval.low <= truth <= interval.high
        low, high = np.quantile(result.resampled[:, 0], [0.025, 0.975])
        naive += not low <= truth <= high
    assert below_or_covered(missed, n, 0.05)
    assert not below_or_covered(naive, n, 0.05)
