"""Agreement and stability of selectors, against hand-worked numbers and counting of pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from raydistill.selectors.agreement import depth_concentration, kendall, map_stability, overlap, score_stability


def tau_by_counting(a, b):
    signs = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in combinations(range(len(a)), 2)]
    return sum(signs) / len(signs)


def test_depth_concentration_by_hand():
    scores = np.array([[1.0, 3, 9, 9, 9, 9, 4, 8], [2.0, 2, 9, 9, 9, 9, 1, 1]])
    mean, error = depth_concentration(scores)  # ratios 6/2 = 3 and 1/2
    assert mean == pytest.approx(1.75)
    assert error == pytest.approx(np.sqrt(((3 - 1.75) ** 2 + (0.5 - 1.75) ** 2) / 1) / np.sqrt(2))


def test_depth_concentration_of_few_layers_takes_one_layer_each():
    assert depth_concentration(np.array([[2.0, 5.0, 6.0]]))[0] == 3.0
    assert np.isnan(depth_concentration(np.array([[2.0, 5.0, 6.0]]))[1])


def test_depth_concentration_is_nan_where_a_ratio_says_nothing():
    assert np.isnan(depth_concentration(np.zeros((2, 8)))).all()
    assert np.isnan(depth_concentration(np.array([[-1.0, 0, 0, 5]])))[0]


def test_kendall_counts_pairs_of_mean_scores():
    rng = np.random.default_rng(0)
    scores = {name: rng.random((3, 6)) for name in "abc"}
    taus = kendall(scores)
    for one in "abc":
        for other in "abc":
            expected = tau_by_counting(scores[one].mean(0), scores[other].mean(0))
            assert taus[one][other] == pytest.approx(expected)


def test_kendall_of_equal_scores_is_nan():
    assert np.isnan(kendall({"a": np.ones((2, 4)), "b": np.arange(8.0).reshape(2, 4)})["a"]["b"])


def test_overlap_is_the_share_of_common_layers():
    shares = overlap({"a": (0, 1, 2, 3), "b": (0, 3, 5, 7)})
    assert shares == {"a": {"a": 1.0, "b": 0.5}, "b": {"a": 0.5, "b": 1.0}}


def test_stability_over_replicates():
    scores = np.array([[1.0, 2, 3, 4], [1.0, 2, 4, 3], [4.0, 3, 2, 1]])
    expected = np.mean([tau_by_counting(a, b) for a, b in combinations(scores, 2)])
    assert score_stability(scores) == pytest.approx(expected)
    assert map_stability([(0, 1), (0, 2), (0, 1)]) == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert np.isnan(score_stability(scores[:1]))
    assert np.isnan(map_stability([(0, 1)]))
