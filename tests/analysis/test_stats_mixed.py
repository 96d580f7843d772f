"""The mixed model: statsmodels where that converges, ANOVA on balanced data, and planted variances."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from analysis.stats import mixed_split, variance_components


def crossed(rng, sds, shape=(9, 5, 2), shift=0.5):
    """Return a frame of arm, seed, keep and y with the standard deviations of arm, seed and residual."""
    arm, seed = sds[0] * rng.standard_normal(shape[0]), sds[1] * rng.standard_normal(shape[1])
    rows = [
        (f"a{i}", j, k, arm[i] + seed[j] + shift * k + sds[2] * rng.standard_normal())
        for i, j, k in product(*map(range, shape))
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "keep", "y"])


def split(frame, *random):
    factors = {name: frame[name].tolist() for name in random}
    return mixed_split(factors, frame["y"].to_numpy(), fixed=("keep", frame["keep"].tolist()))


def test_it_is_statsmodels_mixed_model_where_that_converges():
    frame = crossed(np.random.default_rng(0), (1.0, 0.0, 0.5)).sample(60, random_state=1)  # unbalanced
    oracle = sm.MixedLM.from_formula("y ~ C(keep)", frame, groups="arm").fit(reml=True)
    assert oracle.converged
    found = split(frame, "arm")
    variances = [
        float(np.var(oracle.fittedvalues - oracle.fittedvalues)),
        float(oracle.cov_re.iloc[0, 0]),
        oracle.scale,
    ]
    keep = oracle.params["C(keep)[T.1]"]
    variances[0] = np.var(keep * (frame["keep"] == 1))
    expected = np.array(variances) / sum(variances)
    assert [found.shares[n] for n in ("keep", "arm", "residual")] == pytest.approx(expected, abs=1e-3)


def test_balanced_data_give_the_anova_components():
    rng = np.random.default_rng(2)
    values = rng.standard_normal((6, 1, 1)) + rng.standard_normal((1, 1, 8)) + 0.7 * rng.standard_normal((6, 1, 8))
    anova = variance_components(values)
    rows = [(i, j, values[i, 0, j]) for i, j in product(range(6), range(8))]
    arm, user, y = zip(*rows, strict=True)
    found = mixed_split({"arm": arm, "user": user}, np.array(y))
    assert found.shares == pytest.approx(anova.shares, abs=1e-3)
    assert found.total == pytest.approx(anova.total, rel=1e-3)


def test_a_factor_without_effect_has_no_share_where_statsmodels_does_not_converge():
    zero = 0
    for seed in range(12):
        found = split(crossed(np.random.default_rng(seed), (0.0, 0.4, 0.5)), "arm", "seed")
        zero += found.shares["arm"] == 0
        assert found.shares["arm"] < 0.15
        assert sum(found.shares.values()) == pytest.approx(1)
    assert zero >= 3  # a variance of 0 is estimated as exactly 0 about half of the time


def test_planted_variances_are_found():
    shares = np.mean(
        [
            list(
                split(crossed(np.random.default_rng(s), (1, 0.5, 0.5), (20, 12, 2), 0.0), "arm", "seed").shares.values()
            )
            for s in range(20)
        ],
        axis=0,
    )
    assert shares == pytest.approx([0, 4 / 6, 1 / 6, 1 / 6], abs=0.06)


def test_only_some_observations_have_a_nested_factor():
    rng = np.random.default_rng(5)
    draw = [f"d{i // 10}" if i < 60 else None for i in range(120)]
    effect = dict(zip({d for d in draw if d}, 3 * rng.standard_normal(6), strict=True))
    y = np.array([effect.get(d, 0.0) for d in draw]) + rng.standard_normal(120)
    found = mixed_split({"draw": draw}, y)
    assert found.shares["draw"] > 0.5
    assert mixed_split({"draw": draw}, rng.standard_normal(120)).shares["draw"] < 0.2


def test_constant_and_perfect_and_too_little():
    assert set(mixed_split({"arm": list("abab")}, np.full(4, 0.1)).shares.values()) == {0.0}
    perfect = mixed_split({"arm": list("aabbcc")}, np.array([1.0, 1, 2, 2, 4, 4]))
    assert perfect.shares["arm"] > 0.999
    with pytest.raises(ValueError, match="random factor"):
        mixed_split({}, np.arange(4.0))
    with pytest.raises(ValueError, match="shape"):
        mixed_split({"arm": ["a"]}, np.arange(4.0))
    with pytest.raises(ValueError, match="leave nothing"):
        mixed_split({"arm": ["a", "b"]}, np.arange(2.0), fixed=("keep", [1, 2]))
