"""Ranks against brute force over Python lists, and NDCG against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from raydistill.errors import TrialDivergedError
from raydistill.metrics import mean_metrics, rank_scores


def brute_force(scores, target: int, seen: list[int]) -> tuple[int, int, list[float]]:
    """Return rank, number of candidates and the ten highest scores of one user, by the rule as written."""
    candidates = [item for item in range(1, len(scores) + 1) if item == target or item not in seen]
    own = scores[target - 1]
    higher = sum(scores[item - 1] > own for item in candidates)
    equal = sum(scores[item - 1] == own for item in candidates if item != target)
    best = sorted((scores[item - 1] for item in candidates), reverse=True)[:10]
    return 1 + higher + equal, len(candidates), best


@st.composite
def users(draw):
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    # Few distinct values, so that ties are common.
    scores = draw(
        st.lists(
            st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), min_size=n_items, max_size=n_items),
            min_size=n_users,
            max_size=n_users,
        )
    )
    item = st.integers(1, n_items)
    targets = draw(st.lists(item, min_size=n_users, max_size=n_users))
    seen = draw(st.lists(st.lists(item, max_size=50), min_size=n_users, max_size=n_users))
    return np.array(scores, dtype=np.float32), np.array(targets), seen


def pairs(seen: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    rows = np.repeat(np.arange(len(seen)), [len(items) for items in seen])
    return rows, np.array([item for items in seen for item in items], dtype=np.int64)


def ranked(scores, targets, seen, **arguments):
    return rank_scores(torch.from_numpy(scores.copy()), targets, *pairs(seen), **arguments)


@given(users())
@settings(max_examples=150, deadline=None)
def test_ranks_candidates_and_top_are_those_of_brute_force(case):
    """Ties, repeated history, a target that is in the history, and catalogues of fewer than ten items included."""
    scores, targets, seen = case
    result = ranked(scores, targets, seen)
    for user, (row, target, items) in enumerate(zip(scores, targets, seen, strict=True)):
        rank, candidates, best = brute_force(row, target, items)
        assert result["rank"][user] == rank
        assert result["candidates"][user] == candidates
        top = result["top"][user]
        chosen = top[: len(best)]
        assert [row[item - 1] for item in chosen] == best
        assert not top[len(best) :].any()
        assert len(set(chosen)) == len(chosen)
        assert not set(chosen) & (set(items) - {target})
    without = ranked(scores, targets, seen, top=False)
    assert set(without) == {"rank", "candidates"}
    assert all((without[name] == result[name]).all() for name in without)


@pytest.mark.parametrize("n_items", [700, 4097])
def test_large_catalogues_too(n_items):
    rng = np.random.default_rng(n_items)
    scores = rng.integers(-30, 30, (17, n_items)).astype(np.float32)
    targets = rng.integers(1, n_items + 1, 17)
    seen = [list(rng.integers(1, n_items + 1, rng.integers(0, 60))) for _ in range(17)]
    seen[0] = list(range(1, n_items + 1))  # has seen everything: the target alone is left
    result = ranked(scores, targets, seen)
    for user in range(17):
        rank, candidates, best = brute_force(scores[user], targets[user], set(seen[user]))
        assert (result["rank"][user], result["candidates"][user]) == (rank, candidates)
        assert [scores[user][item - 1] for item in result["top"][user] if item] == best
    assert result["rank"][0] == 1
    assert list(result["top"][0]) == [targets[0]] + [0] * 9


def test_ndcg_of_ranks_is_scikit_learns():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(40, 60)).astype(np.float32)
    targets = rng.integers(1, 61, 40)
    relevance = np.zeros_like(scores)
    relevance[np.arange(40), targets - 1] = 1
    rank = ranked(scores, targets, [[]] * 40)["rank"]
    means = mean_metrics(rank, ("ndcg@5", "ndcg@10", "hr@10", "mrr"))
    assert means["ndcg@5"] == pytest.approx(ndcg_score(relevance, scores, k=5))
    assert means["ndcg@10"] == pytest.approx(ndcg_score(relevance, scores, k=10))
    order = np.argsort(-scores, axis=1)
    place = np.argmax(order == (targets - 1)[:, None], axis=1) + 1
    assert means["hr@10"] == pytest.approx((place <= 10).mean())
    assert means["mrr"] == pytest.approx((1 / place).mean())


def test_a_model_that_gives_one_score_to_all_is_ranked_last():
    rank = ranked(np.zeros((3, 25), dtype=np.float32), np.array([1, 13, 25]), [[2], [], [25, 1]])["rank"]
    assert list(rank) == [24, 25, 24]


def test_scores_that_are_not_a_number_never_help_the_target():
    scores = np.array([[1.0, np.nan, 0.5, 2.0]], dtype=np.float32)
    assert ranked(scores, np.array([1]), [[]], top=False)["rank"] == [3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_target_without_a_finite_score_is_a_diverged_trial(bad):
    scores = np.zeros((2, 4), dtype=np.float32)
    scores[1, 2] = bad
    with pytest.raises(TrialDivergedError, match="finite"):
        ranked(scores, np.array([1, 3]), [[], []])


def test_half_precision_scores_rank_as_they_are():
    scores = torch.tensor([[1.0, 1.001, 3.0]], dtype=torch.bfloat16)  # the first two are one number in bfloat16
    result = rank_scores(scores, np.array([1]), np.array([], dtype=int), np.array([], dtype=int), top=False)
    assert result["rank"] == [3]
