"""Variance split, budget curves, importances and surrogates, scaling fits: hand-worked and against oracles."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from sklearn.ensemble import RandomForestRegressor
from statsmodels.stats.anova import anova_lm

from analysis.stats import (
    expected_best,
    fit_linear,
    fit_power,
    importances,
    interaction,
    marginal_curve,
    variance_components,
    variance_split,
)


@pytest.fixture(scope="module")
def trials():
    """Return parameters and a metric in which only temperature and alpha matter, and interact."""
    rng = np.random.default_rng(0)
    n = 150
    parameters = {
        "temperature": np.exp(rng.uniform(0, np.log(10), n)),
        "alpha_dist": rng.uniform(0, 1, n),
        "keep_ratio": rng.choice([0.25, 0.5], n),
        "schedule": rng.choice(["cosine", "linear"], n),
        "layers": np.full(n, 8),
    }
    metric = np.log10(parameters["temperature"]) + parameters["alpha_dist"] + 0.05 * rng.standard_normal(n)
    return parameters, metric


def test_variance_split_is_the_type_two_anova_of_statsmodels():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {"a": rng.choice(list("xyz"), 60), "b": rng.choice([0.25, 0.5], 60), "s": rng.integers(0, 3, 60)}
    )
    frame["y"] = frame.a.map({"x": 0, "y": 1, "z": 2}) + 2 * frame.b + rng.standard_normal(60)
    table = anova_lm(smf.ols("y ~ C(a) + C(b) + C(s)", frame).fit(), typ=2)
    split = variance_split({name: frame[name].to_numpy() for name in "abs"}, frame.y.to_numpy())
    total = ((frame.y - frame.y.mean()) ** 2).sum()
    for name in "abs":
        assert split.shares[name] == pytest.approx(table.sum_sq[f"C({name})"] / total)
    assert split.shares["residual"] == pytest.approx(table.sum_sq["Residual"] / total)
    assert sum(split.shares.values()) == pytest.approx(1)


def test_confounded_factors_share_what_they_explain():
    arm = np.repeat(["a", "b"], 10)
    split = variance_split({"arm": arm, "twin": np.repeat([1, 2], 10)}, (arm == "a") * 1.0)
    assert split.shares["arm"] == pytest.approx(0, abs=1e-12)
    assert split.shares["shared"] == pytest.approx(1)


def test_a_missing_hyper_parameter_is_a_group_of_its_own():
    temperature = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, np.nan, np.nan, np.nan])
    split = variance_split({"temperature": temperature}, np.isnan(temperature) * 1.0)
    assert split.shares["temperature"] == pytest.approx(1)
    with_none = variance_split(
        {"temperature": [None if np.isnan(t) else t for t in temperature]}, np.isnan(temperature)
    )
    assert with_none.shares == pytest.approx(split.shares)


def test_a_constant_response_has_no_variance_to_split():
    assert set(variance_split({"a": [1, 2, 3]}, [0.5] * 3).shares.values()) == {0.0}
    assert set(variance_components(np.full((2, 3, 4), 0.1)).shares.values()) == {0.0}


def test_variance_components_solve_the_expected_mean_squares():
    """Against the mean squares of statsmodels' full factorial, solved by hand (Searle et al. 1992)."""
    rng = np.random.default_rng(2)
    a, s, u = 3, 4, 5
    values = rng.standard_normal((a, 1, 1)) + rng.standard_normal((1, 1, u)) + rng.standard_normal((a, s, u))
    rows = [(i, j, k, values[i, j, k]) for i, j, k in product(range(a), range(s), range(u))]
    frame = pd.DataFrame(rows, columns=["a", "s", "u", "y"])
    table = anova_lm(smf.ols("y ~ (C(a) + C(s) + C(u))**2", frame).fit())
    ms = table.mean_sq
    parts = {
        "arm": (ms["C(a)"] - ms["C(a):C(s)"] - ms["C(a):C(u)"] + ms["Residual"]) / (s * u),
        "seed": (ms["C(s)"] - ms["C(a):C(s)"] - ms["C(s):C(u)"] + ms["Residual"]) / (a * u),
        "user": (ms["C(u)"] - ms["C(a):C(u)"] - ms["C(s):C(u)"] + ms["Residual"]) / (a * s),
        "arm x seed": (ms["C(a):C(s)"] - ms["Residual"]) / u,
        "arm x user": (ms["C(a):C(u)"] - ms["Residual"]) / s,
        "seed x user": (ms["C(s):C(u)"] - ms["Residual"]) / a,
        "residual": ms["Residual"],
    }
    parts = {name: max(part, 0) for name, part in parts.items()}
    split = variance_components(values)
    assert split.shares == pytest.approx({name: part / sum(parts.values()) for name, part in parts.items()})


def test_variance_components_find_what_was_planted():
    rng = np.random.default_rng(3)
    values = 2 * rng.standard_normal((20, 1, 1)) + rng.standard_normal((1, 1, 300)) + rng.standard_normal((20, 10, 300))
    shares = variance_components(values).shares
    assert shares["user"] == pytest.approx(1 / 6, abs=0.06)
    assert shares["arm"] == pytest.approx(4 / 6, abs=0.15)
    assert shares["seed"] < 0.02
    assert set(variance_components(values[:, :1]).shares) == {"arm", "user", "residual"}
    with pytest.raises(ValueError, match="two arms"):
        variance_components(values[:1])


def test_expected_best_is_the_mean_over_all_subsets():
    values = np.array([0.3, 0.1, 0.4, 0.1, 0.5, 0.9])
    curve = expected_best(values)
    for k, found in zip(curve.budgets, curve.expected, strict=True):
        assert found == pytest.approx(np.mean([max(subset) for subset in combinations(values, k)]))
    replaced = expected_best(values, estimator="with replacement")
    for k in (1, 2, 3):
        assert replaced.expected[k - 1] == pytest.approx(np.mean([max(drawn) for drawn in product(values, repeat=k)]))
    assert (curve.low <= curve.expected + 1e-12).all()
    assert (curve.expected <= curve.high + 1e-12).all()


def test_expected_best_of_losses_is_the_minimum():
    values = np.array([0.3, 0.1, 0.4])
    curve = expected_best(values, direction="min")
    assert curve.expected == pytest.approx([0.8 / 3, (0.1 + 0.3 + 0.1) / 3, 0.1])
    assert (curve.low <= curve.high).all()


def test_expected_best_of_many_trials_and_of_one():
    curve = expected_best(np.random.default_rng(4).random(2000), n_resamples=2)
    k = np.arange(1, 2001)
    assert np.isfinite(curve.expected).all()
    assert curve.expected[:20] == pytest.approx(k[:20] / (k[:20] + 1), abs=0.02)  # uniform values
    assert expected_best([0.5]).expected == pytest.approx([0.5])
    with pytest.raises(ValueError, match="NaN"):
        expected_best([0.5, np.nan])
    with pytest.raises(ValueError, match="estimator"):
        expected_best([0.5], estimator="jackknife")


def test_expected_best_is_unbiased_without_replacement_and_low_with():
    rng = np.random.default_rng(5)
    samples = rng.random((2000, 6))
    unbiased = np.mean([expected_best(row, n_resamples=1).expected[4] for row in samples])
    biased = np.mean([expected_best(row, n_resamples=1, estimator="with replacement").expected[4] for row in samples])
    assert unbiased == pytest.approx(5 / 6, abs=0.01)
    assert biased < 5 / 6 - 0.03


@pytest.mark.parametrize("evaluator", ["fANOVA", "PED-ANOVA"])
def test_importances_find_what_matters(trials, evaluator):
    parameters, metric = trials
    result = importances(parameters, metric, evaluator=evaluator, log=["temperature"], n_forests=2)
    assert set(list(result.shares)[:2]) == {"temperature", "alpha_dist"}
    assert sum(result.shares.values()) == pytest.approx(1)
    assert result.shares["layers"] == 0
    assert result.evaluator == evaluator
    assert result.n_trials == 150
    if evaluator == "fANOVA":
        # Two uniform inputs of equal range, one of them on its log scale, each explain half of the variance.
        assert result.shares["temperature"] == pytest.approx(0.5, abs=0.1)
        assert max(result.deviations.values()) < 0.05


def test_ped_anova_looks_at_the_good_end():
    """Where the metric is large only parameter a matters; where it is small only b does."""
    rng = np.random.default_rng(6)
    a, b = rng.random((2, 300))
    metric = np.where(a > 0.9, 2 + a, np.where(b < 0.1, -5 + b, 0.0)) + 1e-3 * rng.random(300)
    high = importances({"a": a, "b": b}, metric, evaluator="PED-ANOVA", direction="max").shares
    low = importances({"a": a, "b": b}, metric, evaluator="PED-ANOVA", direction="min").shares
    assert high["a"] > 0.8
    assert low["b"] > 0.8


def test_importances_of_a_constant_metric_are_nothing(trials):
    parameters, metric = trials
    result = importances(parameters, np.zeros_like(metric), evaluator="fANOVA")
    assert set(result.shares.values()) == {0.0}
    for evaluator in ("fANOVA", "PED-ANOVA"):
        constant = importances({"layers": [8] * 5}, [0.1, 0.2, 0.3, 0.4, 0.5], evaluator=evaluator, n_forests=1)
        assert constant.shares == {"layers": 0.0}
    surface = interaction(parameters, np.full_like(metric, 0.1), "temperature", "alpha_dist", points=3)
    assert surface.strength == 0
    assert np.isnan(surface.r_squared)
    assert np.ptp(marginal_curve(parameters, np.full_like(metric, 0.1), "temperature").mean) < 1e-15


def test_unusable_trials_are_refused(trials):
    parameters, metric = trials
    with pytest.raises(ValueError, match="evaluator"):
        importances(parameters, metric, evaluator="mdi")
    with pytest.raises(ValueError, match="too few"):
        importances({"a": [1, 2]}, [1, 2], evaluator="fANOVA")
    with pytest.raises(ValueError, match="NaN"):
        importances({"a": [1, 2, np.nan, 4]}, [1, 2, 3, 4], evaluator="fANOVA")
    with pytest.raises(ValueError, match="log scale"):
        importances({"a": [0, 1, 2, 3]}, [1, 2, 3, 4], evaluator="fANOVA", log=["a"])
    with pytest.raises(ValueError, match="shape"):
        importances({"a": [0, 1, 2]}, [1, 2, 3, 4], evaluator="fANOVA")
    with pytest.raises(ValueError, match="neither all numbers"):
        importances({"a": np.array(["x", 1.0, None, "y"], dtype=object)}, [1, 2, 3, 4], evaluator="fANOVA")
    with pytest.raises(ValueError, match="not among"):
        marginal_curve(parameters, metric, "beta")
    with pytest.raises(ValueError, match="method"):
        marginal_curve(parameters, metric, "layers", method="spline")
    for pair in (("alpha_dist", "schedule"), ("alpha_dist", "alpha_dist")):
        with pytest.raises(ValueError, match=r"numeric|twice"):
            interaction(parameters, metric, *pair)


def test_binned_curves_are_group_means_with_t_intervals(trials):
    parameters, metric = trials
    curve = marginal_curve(parameters, metric, "keep_ratio")
    assert curve.points == pytest.approx([0.25, 0.5])
    chosen = metric[parameters["keep_ratio"] == 0.25]
    oracle = pd.Series(chosen).sem()
    assert curve.mean[0] == pytest.approx(chosen.mean())
    assert curve.high[0] - curve.mean[0] == pytest.approx(1.99 * oracle, rel=0.02)
    assert curve.n_trials.sum() == len(metric)
    assert list(marginal_curve(parameters, metric, "schedule").points) == ["cosine", "linear"]


def test_a_bin_of_one_trial_has_no_interval():
    curve = marginal_curve({"a": [1, 2, 2, 2]}, [0.1, 0.2, 0.3, 0.4], "a")
    assert np.isnan(curve.low[0])
    assert np.isfinite(curve.low[1])


def test_forest_curves_follow_the_planted_function(trials):
    parameters, metric = trials
    curve = marginal_curve(
        parameters, metric, "temperature", method="forest", log=["temperature"], points=5, n_resamples=5
    )
    assert curve.points[[0, -1]] == pytest.approx([1, 10], rel=0.05)
    assert curve.mean - curve.mean.mean() == pytest.approx(np.log10(curve.points) - 0.5, abs=0.12)
    assert (curve.low <= curve.high).all()
    texts = marginal_curve(parameters, metric, "schedule", method="forest", n_resamples=2)
    assert np.ptp(texts.mean) < 0.05


def test_interactions_are_told_from_sums(trials):
    parameters, metric = trials
    additive = interaction(parameters, metric, "temperature", "alpha_dist", log=["temperature"], points=6)
    assert additive.strength < 0.05
    assert additive.r_squared > 0.8
    assert additive.surface.shape == (6, 6)
    assert additive.surface[-1, -1] > additive.surface[0, 0] + 1
    a, b = np.random.default_rng(7).uniform(-1, 1, (2, 200))
    assert interaction({"a": a, "b": b}, a * b, "a", "b", points=6).strength > 0.6


def test_a_fit_is_judged_at_points_that_it_has_not_seen():
    """Noise that belongs to a point, where many trials lie: out of bag, the others at the point give it away."""
    rng = np.random.default_rng(8)
    points = rng.random((10, 2))
    a, b = np.repeat(points, 20, axis=0).T
    metric = np.repeat(rng.standard_normal(10), 20) + 0.01 * rng.standard_normal(200)
    design = np.stack([a, b], axis=1)
    forest = RandomForestRegressor(100, min_samples_leaf=2, max_features=1.0, oob_score=True, random_state=0)
    assert forest.fit(design, metric).oob_score_ > 0.9
    found = interaction({"a": a, "b": b}, metric, "a", "b", points=3)
    assert found.n_points == 10
    assert found.r_squared < 0.2
    own = interaction({"a": rng.random(200), "b": rng.random(200)}, metric, "a", "b", points=3)
    assert own.n_points == 200


def test_linear_fits_are_numpys_and_know_their_error():
    x = np.array([0.25, 0.5, 0.75, 1.0])
    cost = np.array([1.1, 1.9, 3.2, 3.9])
    fit = fit_linear(x, cost)
    model = smf.ols("y ~ x", pd.DataFrame({"x": x, "y": cost})).fit()
    assert (fit.constant, fit.rate) == pytest.approx((model.params["Intercept"], model.params["x"]))
    assert (fit.rate_low, fit.rate_high) == pytest.approx(tuple(model.conf_int().loc["x"]))
    assert fit.r_squared == pytest.approx(model.rsquared)
    assert fit.predict(x) == pytest.approx(model.fittedvalues.to_numpy())


def test_power_fits_find_the_exponent():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    fit = fit_power(x, 3 * x**1.5)
    assert (fit.constant, fit.rate, fit.r_squared) == pytest.approx((3, 1.5, 1))
    assert fit.predict([16.0]) == pytest.approx([192])
    with pytest.raises(ValueError, match="above 0"):
        fit_power(x, x - 1)


def test_fits_of_too_little():
    fit = fit_linear([0.25, 0.5], [1.0, 2.0])
    assert fit.rate == pytest.approx(4)
    assert np.isnan(fit.rate_low)
    constant = fit_linear([1, 2, 3], [5, 5, 5])
    assert (constant.constant, constant.rate) == (5, 0)
    assert np.isnan(constant.r_squared)
    with pytest.raises(ValueError, match="two different x"):
        fit_linear([0.5, 0.5], [1, 2])
    with pytest.raises(ValueError, match="points"):
        fit_linear([0.5, 0.6, 0.7], [1, 2])
