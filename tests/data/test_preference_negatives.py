"""Drawn items: never seen, never twice, and with the right probabilities."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from raydistill.data.preference import negatives as negatives_module
from raydistill.data.preference.negatives import SeenItems, draw_unseen
from raydistill.errors import DataError
from raydistill.seeding import stream


def draw(users, n, popularity, seen, *, how="popularity", seed=0):
    owners = np.array([user for user, items in seen.items() for _ in items], dtype=np.int64)
    items = np.array([item for items in seen.values() for item in items], dtype=np.int64)
    return draw_unseen(
        np.asarray(users, dtype=np.int64),
        n,
        draw=how,
        popularity=np.asarray(popularity, dtype=np.int64),
        seen=SeenItems.of(owners, items, len(popularity) - 1),
        rng=stream(seed, "test"),
        key="candidates.negatives",
    )


@st.composite
def cases(draw):
    n_items = draw(st.integers(4, 30))
    popularity = [0, *draw(st.lists(st.integers(0, 50), min_size=n_items, max_size=n_items))]
    items = st.sets(st.integers(1, n_items), max_size=n_items)
    seen = draw(st.dictionaries(st.integers(0, 5), items, max_size=6))
    users = draw(st.lists(st.integers(0, 5), min_size=1, max_size=8))
    return users, draw(st.integers(0, 6)), popularity, seen, draw(st.sampled_from(["popularity", "uniform"]))


@given(cases(), st.sampled_from([0, 1, 6]))
@settings(max_examples=300, deadline=None)
def test_items_are_of_the_training_catalogue_unseen_and_different(case, rounds):
    users, n, popularity, seen, how = case
    left = {user: {i for i, c in enumerate(popularity) if c} - seen.get(user, set()) for user in users}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(negatives_module, "_ROUNDS", rounds)  # 0: all by the exact draw
        if min(map(len, left.values())) < n:
            with pytest.raises(DataError, match="unseen items are to be drawn") as caught:
                draw(users, n, popularity, seen, how=how)
            assert caught.value.where == "candidates.negatives"
            assert f"at most {min(map(len, left.values()))}" in caught.value.mend
            return
        found = draw(users, n, popularity, seen, how=how)
        assert found.tolist() == draw(users, n, popularity, seen, how=how).tolist()
    assert found.shape == (len(users), n)
    for user, items in zip(users, found.tolist(), strict=True):
        assert len(set(items)) == n
        assert set(items) <= left[user]


@pytest.mark.parametrize("rounds", [0, 1, 6])
@pytest.mark.parametrize("how", ["popularity", "uniform"])
def test_the_order_drawn_has_the_probability_of_drawing_one_after_the_other(rounds, how, monkeypatch):
    monkeypatch.setattr(negatives_module, "_ROUNDS", rounds)
    popularity, seen = [0, 50, 9, 5, 0, 2, 1], {0: {1, 4}}
    size = 40_000
    found = draw([0] * size, 3, popularity, seen, how=how)
    weights = {i: (popularity[i] if how == "popularity" else 1) for i in (2, 3, 5, 6)}
    orders = list(permutations(weights, 3))
    expected = []
    for order in orders:
        left, probability = sum(weights.values()), 1.0
        for item in order:
            probability *= weights[item] / left
            left -= weights[item]
        expected.append(size * probability)
    counts = [np.count_nonzero((found == order).all(axis=1)) for order in orders]
    assert sum(counts) == size
    assert chisquare(counts, expected).pvalue > 1e-4


def test_a_user_who_has_seen_nearly_all_that_is_popular_gets_the_rest():
    popularity = [0, *[10**6] * 200, *[1] * 30]
    found = draw([3] * 5, 25, popularity, {3: set(range(1, 201))})
    assert ((found > 200) & (found <= 230)).all()
    assert all(len(set(row)) == 25 for row in found.tolist())


def test_the_seed_decides():
    popularity = [0, *[1] * 100]
    assert (draw([0] * 20, 3, popularity, {}, seed=0) != draw([0] * 20, 3, popularity, {}, seed=1)).any()
