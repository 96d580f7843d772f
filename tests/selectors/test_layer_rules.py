"""Layer maps against hand-worked tables and brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from raydistill.errors import EvidenceError
from raydistill.selectors import SELECTORS, choose_layers

SCORES = np.array([5.0, 9.0, 1.0, 7.0, 7.0, 2.0, 8.0, 3.0])


def select(name, n_student, n_teacher, evidence=None, seed=0, **given):
    selector = SELECTORS[name]
    return selector.select(
        evidence or {},
        n_student,
        n_teacher=n_teacher,
        params=selector.params_type(**given),
        generator=np.random.default_rng(seed),
    )


@pytest.mark.parametrize(
    ("rule", "n_student", "expected"),
    [
        ("top_k", 1, (1,)),
        ("top_k", 3, (1, 3, 6)),  # 3 and 4 tie at 7: the shallower wins
        ("top_k", 4, (1, 3, 4, 6)),
        # Thirds are 0-2, 3-5, 6-7. Best overall 1, then best of the other thirds by score: 6, 3.
        ("stratified", 1, (1,)),
        ("stratified", 2, (1, 6)),
        ("stratified", 3, (1, 3, 6)),
        ("stratified", 4, (1, 3, 4, 6)),  # second turn: best left over is 4
        ("stratified", 6, (0, 1, 3, 4, 6, 7)),
        ("stratified", 7, (0, 1, 3, 4, 5, 6, 7)),  # upper third is used up; 5 (score 2) before 2 (score 1)
        ("top_k_ends", 1, (0,)),
        ("top_k_ends", 2, (0, 7)),
        ("top_k_ends", 4, (0, 1, 6, 7)),
    ],
)
def test_rules_by_hand(rule, n_student, expected):
    assert choose_layers(SCORES, n_student, rule) == expected


def test_top_k_has_the_greatest_sum_of_all_sets():
    scores = np.random.default_rng(0).random(8)
    for k in range(1, 9):
        best = max(combinations(range(8), k), key=lambda layers: scores[list(layers)].sum())
        assert choose_layers(scores, k, "top_k") == best


def test_unknown_rule_is_refused():
    with pytest.raises(EvidenceError, match="unknown rule"):
        choose_layers(SCORES, 2, "best")


@pytest.mark.parametrize(
    ("name", "given", "n_student", "n_teacher", "expected"),
    [
        ("uniform", {}, 6, 12, (0, 2, 4, 7, 9, 11)),  # DistilBERT's own list
        ("uniform", {}, 1, 8, (0,)),
        ("uniform", {}, 2, 8, (0, 7)),
        ("uniform", {}, 4, 8, (0, 2, 5, 7)),
        ("uniform", {}, 3, 6, (0, 3, 5)),  # 2.5 rounds up
        ("head_tail", {}, 1, 8, (0,)),
        ("head_tail", {}, 4, 8, (0, 1, 6, 7)),
        ("head_tail", {}, 5, 8, (0, 1, 2, 6, 7)),
        ("tail", {}, 3, 8, (0, 1, 2)),  # the tail is dropped
        ("tail", {"drop": "first"}, 3, 8, (5, 6, 7)),
    ],
)
def test_fixed_maps_by_hand(name, given, n_student, n_teacher, expected):
    assert select(name, n_student, n_teacher, **given) == expected


def test_random_draws_every_layer_equally_often():
    counts = np.zeros(6)
    for seed in range(600):
        counts[list(select("random", 2, 6, seed=seed))] += 1
    assert np.abs(counts - 200).max() < 50  # 200 expected, standard deviation about 11.5


def test_scores_are_averaged_over_replicates_before_layers_are_picked():
    # Layer 1 wins two replicates of three, layer 2 wins on average.
    evidence = {"attention": np.array([[0.0, 1.0, 0.9], [0.0, 1.0, 0.9], [0.0, 0.0, 0.9]])}
    assert select("attention", 1, 3, evidence) == (2,)


def test_contiguous_drops_the_run_with_the_least_angle():
    rng = np.random.default_rng(3)
    distances = np.triu(rng.random((2, 6, 6)))
    for n_student in range(1, 6):
        run = 6 - n_student
        best = min(range(n_student + 1), key=lambda i: distances.mean(0)[i, i + run - 1])
        expected = tuple(layer for layer in range(6) if not best <= layer < best + run)
        assert select("contiguous", n_student, 6, {"contiguous": distances}) == expected


def test_contiguous_drops_the_deepest_of_equal_runs():
    assert select("contiguous", 4, 6, {"contiguous": np.zeros((1, 6, 6))}) == (0, 1, 2, 3)


HYBRID = {
    "fisher": np.array([[0.0, 10.0, 5.0]]),
    "attention": np.array([[0.3, 0.2, 0.1]]),
    "gradient": np.array([[1.0, 1.0, 1.0]]),
}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("min_max", [0.5 * 0 + 0.3 * 1, 0.5 * 1 + 0.3 * 0.5, 0.5 * 0.5 + 0]),
        ("rank", [0.5 * 0 + 0.3 * 1, 0.5 * 1 + 0.3 * 0.5, 0.5 * 0.5 + 0]),
        ("share", [0.3 * 0.3 / 0.6, 0.5 * 10 / 15 + 0.3 * 0.2 / 0.6, 0.5 * 5 / 15 + 0.3 * 0.1 / 0.6]),
    ],
)
def test_hybrid_by_hand_with_one_kind_that_says_nothing(rule, expected):
    selector = SELECTORS["hybrid"]
    np.testing.assert_allclose(selector.scores(HYBRID, selector.params_type(normalize=rule)), [expected], rtol=1e-12)


def test_hybrid_ranks_with_ties_share_the_average_rank():
    selector = SELECTORS["hybrid"]
    params = selector.params_type(weights={"fisher": 2.0}, normalize="rank")
    scores = selector.scores({"fisher": np.array([[4.0, 1.0, 4.0, 9.0]])}, params)
    np.testing.assert_allclose(scores, [[1.5 / 3, 0, 1.5 / 3, 1]])


def test_hybrid_weights_count_by_their_ratio():
    selector = SELECTORS["hybrid"]
    a = selector.scores(HYBRID, selector.params_type())
    b = selector.scores(HYBRID, selector.params_type(weights={"fisher": 5, "attention": 3, "gradient": 2}))
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_hybrid_takes_the_runs_of_one_block_of_contiguous():
    runs = np.array([[[0.1, 9.0, 9.0], [0.0, 0.3, 9.0], [0.0, 0.0, 0.2]]])
    selector = SELECTORS["hybrid"]
    params = selector.params_type(weights={"contiguous": 3, "fisher": 1})
    scores = selector.scores({"contiguous": runs, "fisher": np.array([[1.0, 0.0, 2.0]])}, params)
    np.testing.assert_allclose(scores, [[0.75 * 0 + 0.25 * 0.5, 0.75 * 1 + 0, 0.75 * 0.5 + 0.25 * 1]])


def test_hybrid_refuses_shares_of_negative_scores():
    with pytest.raises(EvidenceError, match="negative"):
        select(
            "hybrid", 1, 2, {"taylor_block": np.array([[-1.0, 2.0]])}, weights={"taylor_block": 1}, normalize="share"
        )


@pytest.mark.parametrize("weights", [{}, {"fisher": -1, "attention": 2}, {"fisher": 0}, {"fishre": 1}])
def test_hybrid_refuses_weights_that_mix_nothing(weights):
    with pytest.raises(ValueError, match="weights"):
        SELECTORS["hybrid"].params_type(weights=weights)
