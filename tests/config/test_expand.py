"""Arms and strata of a sweep, by the formula of the keep-ratio and by hand."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydistill.config import arms, n_student_layers, strata
from raydistill.config.space import Dimension, Space
from raydistill.errors import ConfigError


def test_arms_in_the_order_of_the_file(load):
    sweep = load(
        "selectors=[score, {name: score, label: second, labels: data}, uniform, {name: random, draws: 3}]",
        "controls=[popularity, teacher, scratch, scratch_kd, no_kd]",
    )
    table = [(arm.name, arm.kind, arm.selector, arm.draws, arm.has_study, arm.in_strata) for arm in arms(sweep)]
    assert table == [
        ("score", "selector", "score", 1, True, True),
        ("second", "selector", "score", 1, True, True),
        ("uniform", "selector", "uniform", 1, True, True),
        ("random", "selector", "random", 3, True, True),
        ("popularity", "control", None, 1, False, False),
        ("teacher", "control", None, 1, False, False),
        ("scratch", "control", None, 1, False, True),
        ("scratch_kd", "control", None, 1, True, True),
        ("no_kd", "control", None, 1, False, True),
    ]
    assert arms(sweep)[1].params.labels == "data"


@given(st.integers(1, 200), st.integers(1, 48))
def test_student_layers_are_the_rounded_share_and_at_least_one(hundredths, n_teacher):
    ratio = Decimal(hundredths) / 200
    exact = (ratio * n_teacher).quantize(Decimal(1), ROUND_HALF_EVEN)
    if (ratio * n_teacher * 2) % 1 == 0:
        return  # exactly between two depths, a float may fall on either side; the next test has those by hand
    assert n_student_layers(float(ratio), n_teacher) == max(1, int(exact))


@pytest.mark.parametrize(
    ("ratio", "n_teacher", "n_student"),
    [(0.25, 8, 2), (0.5, 8, 4), (0.25, 6, 2), (0.5, 5, 2), (0.5, 7, 4), (0.5, 1, 1), (0.1, 5, 1), (1.0, 12, 12)],
)
def test_student_layers_by_hand(ratio, n_teacher, n_student):
    assert n_student_layers(ratio, n_teacher) == n_student


def test_strata_of_a_choice_are_its_keep_ratios_shallowest_first(load):
    assert strata(load("search.space.keep_ratio.choice=[0.5, 0.25, 1]"), 8) == [(2, 0.25), (4, 0.5), (8, 1.0)]


@pytest.mark.parametrize("kind", ["uniform", "log_uniform"])
@given(data=st.data())
def test_strata_of_a_range_are_every_depth_that_it_can_give(kind, data):
    n_teacher = data.draw(st.integers(2, 24))
    low = data.draw(st.floats(0.5 / n_teacher + 1e-6, 0.9))
    high = data.draw(st.floats(low + 0.01, 1.0))
    sweep = _Range(kind, low, high)
    found = strata(sweep, n_teacher)
    grid = {n_student_layers(low + (high - low) * step / 2000, n_teacher) for step in range(2001)}
    assert {depth for depth, _ in found} >= grid
    assert [depth for depth, _ in found] == sorted({depth for depth, _ in found})
    for depth, ratio in found:
        assert low <= ratio <= high
        assert n_student_layers(ratio, n_teacher) == depth


class _Range:
    """A sweep as far as ``strata`` looks at one."""

    def __init__(self, kind: str, low: float, high: float) -> None:
        dimension = Dimension.model_validate({kind: (low, high)})
        self.search = type("Search", (), {"space": Space(keep_ratio=dimension)})


def test_a_pretrained_teacher_is_checked_when_its_depth_is_known(load):
    sweep = load("teacher={pretrained: x, epochs: 1}", "search.space.keep_ratio.choice=[0.25, 0.3]")
    assert strata(sweep, 24) == [(6, 0.25), (7, 0.3)]
    with pytest.raises(ConfigError, match=r"0\.25 and 0\.3 both keep 2 of 7 layers"):
        strata(sweep, 7)
    with pytest.raises(ConfigError, match=r"0\.25 keeps nothing: 0\.25 x 1 layers"):
        strata(sweep, 1)
