"""Who is stopped: thresholds against successive halving counted out by hand and by brute force."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raydistill.records import Record
from raydistill.tuning.early_stopping import rungs, thresholds


def curve_of(values: list[float]) -> Record:
    curves = tuple({"epoch": epoch, "m": value} for epoch, value in enumerate(values, start=1))
    return Record(
        id="", name="", sweep="", phase="search", arm="", kind="", number=0, status="success", seed=0,
        epochs=len(values), curves=curves,
    )  # fmt: skip


def test_rungs_are_powers_of_the_reduction_below_the_last_epoch():
    assert rungs(1, 3, 27) == [1, 3, 9]
    assert rungs(1, 3, 28) == [1, 3, 9, 27]
    assert rungs(2, 2, 9) == [2, 4, 8]
    assert rungs(5, 3, 5) == []


def test_a_worked_case_of_three_with_one_in_three_going_on():
    earlier = [curve_of([0.1, 0.2, 0.3, 0.4]), curve_of([0.5]), curve_of([0.3, 0.3, 0.3, 0.3])]
    found = thresholds(earlier, "m", grace=1, reduction=3, epochs=4)
    # After epoch 1 there are four with the new one, of whom one goes on: it must beat the best, 0.5.
    # After epoch 3 there are three with the new one, and again it must beat the best, 0.3.
    assert found == {1: 0.5, 3: 0.3}


def test_fewer_than_reduction_rivals_stop_nobody():
    assert thresholds([curve_of([0.9, 0.9])], "m", grace=1, reduction=3, epochs=2) == {}
    assert thresholds([], "m", grace=1, reduction=2, epochs=9) == {}


@given(
    lengths=st.lists(st.integers(1, 9), max_size=9),
    data=st.data(),
    reduction=st.integers(2, 4),
    grace=st.integers(1, 3),
)
def test_who_goes_on_is_who_is_among_the_best_share_of_all_that_reached_the_rung(lengths, data, reduction, grace):
    value = st.sampled_from([0.0, 0.1, 0.2, 0.3])  # few values, so that there are ties
    earlier = [data.draw(st.lists(value, min_size=n, max_size=n)) for n in lengths]
    own = data.draw(st.lists(value, min_size=9, max_size=9))
    found = thresholds(list(map(curve_of, earlier)), "m", grace=grace, reduction=reduction, epochs=9)
    assert set(found) <= set(rungs(grace, reduction, 9))
    for rung in rungs(grace, reduction, 9):
        reached = [values[rung - 1] for values in earlier if len(values) >= rung]
        places = (len(reached) + 1) // reduction
        # A tie goes against the newcomer: its place is behind everyone at least as good.
        goes_on = places == 0 or sum(value >= own[rung - 1] for value in reached) < places
        assert goes_on == (rung not in found or own[rung - 1] > found[rung])
