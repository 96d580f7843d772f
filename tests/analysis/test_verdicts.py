"""Words: each rule on data made for it, direction, one seed, and never stronger than the data."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from analysis.stats import compare_arms
from analysis.verdicts import Word, improvement, judge


def compared(shift, *, spread=0.001, n_seeds=5, direction="max", n_users=50, rng=0):
    """Return the comparison of an arm whose true relative improvement in metric units is `shift`."""
    rng = np.random.default_rng(rng)
    reference = 0.5 + 0.1 * rng.standard_normal((1, n_users)) + 0.001 * rng.standard_normal((n_seeds, 1))
    steps = rng.standard_normal((n_seeds, 1))
    steps = (steps - steps.mean()) / (steps.std(ddof=1) if n_seeds > 1 else 1)
    arm = reference + 0.5 * shift + spread * steps + 1e-4 * rng.standard_normal((n_seeds, n_users))
    values = np.stack([reference, arm])
    return compare_arms(
        values,
        ["uniform", "fisher"],
        reference="uniform",
        metric="m",
        direction=direction,
        n_resamples=500,
        n_flips=200,
    )[0]


@pytest.mark.parametrize(
    ("shift", "spread", "word"),
    [
        (0.10, 0.001, Word.BETTER),
        (0.008, 0.001, Word.BETTER),
        (-0.10, 0.001, Word.INFERIOR),
        (-0.02, 0.002, Word.WORSE),
        (-0.008, 0.001, Word.WORSE),
        (0.0, 0.002, Word.EQUIVALENT),
        (0.015, 0.009, Word.NON_INFERIOR),
        (0.0, 0.02, Word.UNDECIDED),
        (-0.015, 0.02, Word.UNDECIDED),
    ],
)
def test_each_word_has_its_data(shift, spread, word):
    verdict = judge(compared(shift, spread=spread))
    assert verdict.word == word
    assert verdict.models_word == word
    assert verdict.method_claim


@pytest.mark.parametrize(
    ("shift", "word"), [(0.1, Word.INFERIOR), (-0.1, Word.BETTER), (0.008, Word.WORSE), (-0.008, Word.BETTER)]
)
def test_words_follow_the_direction_of_the_metric(shift, word):
    comparison = compared(shift, direction="min")
    assert judge(comparison).word == word
    middle, low, high = improvement(comparison)
    assert low <= middle <= high
    assert np.sign(middle) == -np.sign(shift)


def test_non_inferiority_follows_the_direction_of_the_metric():
    assert judge(compared(-0.015, spread=0.009, direction="min")).word == Word.NON_INFERIOR
    assert judge(compared(0.015, spread=0.009, direction="min")).word == Word.UNDECIDED


def test_sentences_say_the_numbers_and_the_margin():
    small = judge(compared(0.008)).sentence
    assert "better than uniform, by less than the margin of 2 %" in small
    assert re.search(r"\(\+0\.\d %, 95 % interval \+0\.\d % to \+\d\.\d %\)", small)
    assert "by more than 2 %" in judge(compared(-0.1)).sentence
    assert "equivalent to uniform within 2 %" in judge(compared(0.0, spread=0.002)).sentence
    assert "not worse than uniform by more than 2 %" in judge(compared(0.015, spread=0.009)).sentence


def test_undecided_says_how_many_seeds_would_resolve_it():
    comparison = compared(0.0, spread=0.02)
    found = re.search(r"undecided at this budget; (\d+) more seeds would resolve 1 %", judge(comparison).sentence)
    # statsmodels' answer for a paired t over seeds with this spread; users add almost nothing.
    effect = 0.01 * comparison.reference_mean.estimate / 0.02
    needed = np.ceil(TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8))
    assert int(found[1]) == pytest.approx(needed - 5, abs=1)


def test_undecided_without_a_way_out_says_so():
    comparison = compared(0.0, spread=0.02)
    stuck = replace(comparison, power=replace(comparison.power, needed=None, more=None))
    assert "no number of seeds would resolve 1 % with these users" in judge(stuck).sentence
    one = replace(comparison, power=replace(comparison.power, more=1))
    assert "1 more seed would resolve 1 %" in judge(one).sentence
    none = replace(comparison, power=replace(comparison.power, more=0))
    assert "would probably have been seen" in judge(none).sentence
    assert judge(replace(comparison, power=None)).sentence.startswith("undecided at this budget (")


def test_one_seed_makes_no_claim_about_the_method():
    verdict = judge(compared(0.1, n_seeds=1))
    assert verdict.word == Word.UNDECIDED
    assert verdict.models_word == Word.BETTER
    assert not verdict.method_claim
    assert verdict.sentence.startswith("no claim about the method can be made from one seed")
    assert "over 50 users: better than uniform" in verdict.sentence


def test_random_layer_sets_make_no_claim_about_choosing_at_random():
    verdict = judge(replace(compared(0.1), drawn=3))
    assert (verdict.word, verdict.models_word, verdict.method_claim) == (Word.UNDECIDED, Word.BETTER, False)
    assert verdict.sentence.startswith(
        "no claim about random layers in general is made; the 3 layer sets drawn: better"
    )


def test_an_interval_alone_is_not_enough_when_the_correction_takes_it_back():
    comparison = compared(0.1)
    assert judge(replace(comparison, adjusted_p=0.2)).word != Word.BETTER
    nothing = replace(comparison, adjusted_p=0.2, equivalence_p=0.2, non_inferiority_p=0.2)
    assert judge(nothing).word == Word.UNDECIDED


def test_tests_that_could_not_be_run_decide_nothing():
    values = np.zeros((2, 3, 10))
    comparison = compare_arms(values, ["uniform", "a"], reference="uniform", metric="m", n_flips=200)[0]
    verdict = judge(comparison)
    assert verdict.word == Word.UNDECIDED
    assert "nan" not in verdict.sentence


@pytest.mark.parametrize("n", [80, pytest.param(1000, marks=pytest.mark.slow)])
def test_equal_methods_are_seldom_called_better_or_worse(n):
    rng = np.random.default_rng(1)
    claims = 0
    for _ in range(n):
        users = 0.5 + 0.1 * rng.standard_normal((1, 1, 30))
        values = users + 0.02 * rng.standard_normal((4, 3, 1)) + 0.1 * rng.standard_normal((4, 3, 30))
        found = compare_arms(values, list("rabc"), reference="r", metric="m", n_resamples=100, n_flips=100)
        claims += any(judge(one).word in (Word.BETTER, Word.WORSE, Word.INFERIOR) for one in found)
    assert stats.binomtest(claims, n).proportion_ci(0.99, method="exact").low <= 0.05


@pytest.mark.parametrize("n", [80, pytest.param(1000, marks=pytest.mark.slow)])
def test_equivalence_is_seldom_claimed_of_an_arm_worse_by_the_margin(n):
    rng = np.random.default_rng(2)
    claims = 0
    for _ in range(n):
        reference = 0.5 + 0.1 * rng.standard_normal((1, 30)) + 0.005 * rng.standard_normal((4, 1))
        arm = 0.98 * reference + 0.005 * rng.standard_normal((4, 1)) + 0.01 * rng.standard_normal((4, 30))
        one = compare_arms(
            np.stack([reference, arm]), ["r", "a"], reference="r", metric="m", n_resamples=100, n_flips=100
        )[0]
        claims += judge(one).word in (Word.EQUIVALENT, Word.NON_INFERIOR)
    assert stats.binomtest(claims, n).proportion_ci(0.99, method="exact").low <= 0.05


@pytest.mark.parametrize("n", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_of_many_arms_worse_by_the_margin_none_is_often_called_worse_by_more(n):
    rng = np.random.default_rng(3)
    claims = 0
    for _ in range(n):
        reference = 0.5 + 0.1 * rng.standard_normal((1, 30)) + 0.005 * rng.standard_normal((5, 1))
        noise = 0.002 * rng.standard_normal((10, 5, 1)) + 0.002 * rng.standard_normal((10, 5, 30))
        values = np.concatenate([reference[None], 0.98 * reference + noise])
        found = compare_arms(values, list("rabcdefghij"), reference="r", metric="m", n_resamples=100, n_flips=100)
        claims += any(judge(one).word == Word.INFERIOR for one in found)
    assert stats.binomtest(claims, n).proportion_ci(0.99, method="exact").low <= 0.05
