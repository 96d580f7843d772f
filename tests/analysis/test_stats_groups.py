"""ROC curves, groups of users, and overlap, against sklearn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from analysis.stats import (
    attribute_groups,
    group_means,
    history_groups,
    popularity_groups,
    roc_from_ranks,
    roc_from_scores,
    top_k_overlap,
)


def test_roc_from_ranks_is_sklearns_averaged_over_users():
    """One positive a user: sklearn on each user's scores, averaged."""
    rng = np.random.default_rng(0)
    scores = rng.random((40, 11))
    scores[:, 0] += 0.3
    ranks = 1 + (scores[:, 1:] > scores[:, :1]).sum(axis=1)
    curve = roc_from_ranks(ranks, np.full(40, 11), points=11, n_resamples=50)
    labels = np.eye(11)[0]
    assert curve.auc == pytest.approx(np.mean([roc_auc_score(labels, row) for row in scores]))
    for point, rate in zip(curve.false_positive_rate, curve.true_positive_rate, strict=True):
        expected = np.mean([(ranks_above(row) <= point + 1e-9) for row in scores])
        assert rate == pytest.approx(expected)
    assert curve.true_positive_rate[-1] == 1


def ranks_above(row):
    """Return the share of negatives that sklearn's curve has passed when it takes the positive in."""
    false, true, _ = roc_curve(np.eye(len(row))[0], row, drop_intermediate=False)
    return false[np.flatnonzero(true == 1)[0]]


def test_roc_bands_from_ranks_are_binomial():
    rng = np.random.default_rng(1)
    ranks = rng.integers(1, 102, 400)
    curve = roc_from_ranks(ranks, np.full(400, 101), points=5, n_resamples=2000)
    share = curve.true_positive_rate[2]
    expected = 1.96 * np.sqrt(share * (1 - share) / 400)
    assert curve.high[2] - curve.low[2] == pytest.approx(2 * expected, rel=0.1)
    assert curve.auc_low < curve.auc < curve.auc_high


def test_roc_from_ranks_averages_seeds_inside_a_user():
    ranks = np.array([[1, 3], [3, 3]])
    curve = roc_from_ranks(ranks, np.array([3, 3]), points=3, n_resamples=20)
    assert curve.true_positive_rate == pytest.approx([0.25, 0.25, 1.0])
    assert curve.auc == pytest.approx(0.25)


@pytest.mark.parametrize(("ranks", "candidates"), [([0, 1], [3, 3]), ([4, 1], [3, 3]), ([1, 1], [1, 3])])
def test_impossible_ranks_are_refused(ranks, candidates):
    with pytest.raises(ValueError, match=r"rank|candidates"):
        roc_from_ranks(ranks, candidates)


@pytest.mark.parametrize("tied", [False, True])
def test_roc_from_scores_is_sklearns(tied):
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 200)
    scores = rng.random(200) + 0.4 * labels
    scores = np.round(scores, 1) if tied else scores
    curve = roc_from_scores(labels, scores, points=21, n_resamples=50)
    assert curve.auc == pytest.approx(roc_auc_score(labels, scores))
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    inside = curve.false_positive_rate[1:-1]
    assert curve.true_positive_rate[1:-1] == pytest.approx(np.interp(inside, false, true))
    assert (curve.low <= curve.high).all()


def test_roc_bands_resample_users_not_examples():
    """A hundred copies of the same example are one piece of evidence."""
    rng = np.random.default_rng(3)
    labels, scores = rng.integers(0, 2, 30), rng.random(30)
    copies = np.repeat(np.arange(30), 20)
    by_user = roc_from_scores(labels[copies], scores[copies], copies, n_resamples=200)
    by_example = roc_from_scores(labels[copies], scores[copies], n_resamples=200)
    assert by_user.n_users == 30
    assert by_user.auc_high - by_user.auc_low > 2 * (by_example.auc_high - by_example.auc_low)


def test_unusable_labels_are_refused():
    for labels in ([1, 1, 1], [0, 1, 2]):
        with pytest.raises(ValueError, match="both must occur"):
            roc_from_scores(labels, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="length"):
        roc_from_scores([0, 1], [0.1, 0.2, 0.3])


def test_history_groups_by_edges_and_by_quartiles():
    groups = history_groups([1, 5, 9, 10, 30], edges=[5, 10])
    assert groups.names == ("1-4", "5-9", "10-30")
    assert groups.members.astype(int).tolist() == [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
    quartiles = history_groups(np.arange(100))
    assert quartiles.members.sum(axis=1).tolist() == [25, 25, 25, 25]
    assert history_groups([7, 7, 7]).names == ("7",)
    with pytest.raises(ValueError, match="ascend"):
        history_groups([1, 2], edges=[5, 5])


def test_popularity_groups_by_hand():
    # 20 interactions: 10 | 4 + 2 | 2 + 1 + 1. Half are the first item's, four fifths the first three's.
    groups = popularity_groups([10, 4, 2, 1, 0], [10, 4, 2, 2, 1, 1])
    # The two items of popularity 2 begin before four fifths and stay together.
    assert groups.names == ("head", "torso", "tail")
    assert groups.members.astype(int).tolist() == [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
    with pytest.raises(ValueError, match="interaction"):
        popularity_groups([1], [0, 0])


def test_attribute_groups_overlap_and_keep_the_largest():
    groups = attribute_groups([["a", "b"], ["a"], ["b", "a", "a"], []], most=1)
    assert groups.names == ("a",)
    assert groups.members.tolist() == [[True, True, True, False]]
    assert attribute_groups([["x"], ["y"]]).names == ()


def test_group_means_are_those_of_the_members():
    rng = np.random.default_rng(4)
    values, reference = rng.random((1, 40)), rng.random((1, 40))
    groups = history_groups([*[1] * 20, *[5] * 19, 9], edges=[5, 9])
    short, middle, single = group_means(values, groups, reference=reference)
    oracle = stats.ttest_rel(values[0, :20], reference[0, :20])
    assert short.difference.p_value == pytest.approx(oracle.pvalue, rel=1e-6)
    low, high = oracle.confidence_interval(0.95)
    assert (short.difference.low, short.difference.high) == pytest.approx((low, high))
    assert middle.mean.estimate == pytest.approx(values[0, 20:39].mean())
    assert (single.n_users, single.mean, single.difference) == (1, None, None)
    with pytest.raises(ValueError, match="groups are over"):
        group_means(values[:, :10], groups)


def test_overlap_by_hand():
    assert top_k_overlap([[1, 2, 3], [4, 5, 6]], [[3, 1, 9], [7, 8, 9]]) == pytest.approx([2 / 3, 0])
    with pytest.raises(ValueError, match=r"\[user, k\]"):
        top_k_overlap([[1, 2]], [[1, 2, 3]])
