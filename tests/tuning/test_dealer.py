"""Equal budgets, and the same trials whatever the order, the number of slots or the moment of a kill."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuning_zoo import dealer_of, invented_record, outline, play, small_sweep

from raydistill.tuning.arm_search import ArmSearch

SEARCHED = ("fisher", "uniform", "random", "scratch_kd")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return small_sweep(tmp_path_factory.mktemp("sweep"))


def of_search(records, arm):
    return [record for record in records if (record.phase, record.arm) == ("search", arm)]


def of_confirm(records):
    return [record for record in records if record.phase == "confirm"]


def spent(records, epochs):
    return sum(epochs if record.status == "failed" else record.epochs for record in records)


def test_every_arm_has_the_same_number_of_trials_without_early_stopping(tmp_path):
    sweep = small_sweep(tmp_path, "search.early_stopping=none")
    records = play(dealer_of(sweep))
    assert {arm: len(of_search(records, arm)) for arm in SEARCHED} == dict.fromkeys(SEARCHED, 6)
    assert {record.status for record in records} == {"success"}
    # Strata take turns, so each gets half of the trials.
    assert Counter(r.keep_ratio for arm in SEARCHED for r in of_search(records, arm)) == {0.25: 12, 0.5: 12}


def test_every_arm_spends_its_budget_of_epochs_and_no_more(tmp_path):
    sweep = small_sweep(tmp_path, "search.trials=10")
    records = play(dealer_of(sweep))
    budget, epochs = 10 * 9, 9
    for arm in SEARCHED:
        used = spent(of_search(records, arm), epochs)
        assert budget - epochs < used <= budget
    assert "stopped" in {record.status for record in records}


def test_epochs_that_early_stopping_saves_pay_for_further_trials_of_the_same_arm(tmp_path):
    sweep = small_sweep(tmp_path, "search.trials=10")
    records = play(dealer_of(sweep))
    more = {arm: len(of_search(records, arm)) for arm in SEARCHED}
    for arm, n_trials in more.items():
        stopped = [record for record in of_search(records, arm) if record.status == "stopped"]
        saved = sum(9 - record.epochs for record in stopped)
        assert n_trials >= 10 + saved // 9
    assert max(more.values()) > 10


def test_a_failed_trial_is_charged_in_full_and_another_does_not_take_its_place(tmp_path):
    sweep = small_sweep(tmp_path, "search.early_stopping=none")
    records = play(dealer_of(sweep), failing={("uniform", number) for number in range(6)})
    failed = of_search(records, "uniform")
    assert [record.status for record in failed] == ["failed"] * 6
    # The arm has no setting to confirm, and the others are not touched.
    assert not [record for record in of_confirm(records) if record.arm == "uniform"]
    assert len(of_search(records, "fisher")) == 6
    assert [record for record in of_confirm(records) if record.arm == "fisher"]


def test_failed_trials_run_again_when_the_sweep_continues(sweep):
    first = play(dealer_of(sweep), failing={("fisher", 1), ("random", 4)})
    again = play(dealer_of(sweep, first))
    assert [(r.arm, r.number, r.status) for r in again if (r.arm, r.number) in {("fisher", 1), ("random", 4)}] == [
        ("fisher", 1, "success"),
        ("random", 4, "success"),
    ]
    kept = {record.id for record in first if record.status != "failed"}
    assert not kept & {record.id for record in again}


@pytest.mark.parametrize("stop_after", [None, *range(1, 12)])
def test_a_failure_that_is_mended_leaves_the_sweep_that_never_failed(sweep, stop_after):
    never = dealer_of(sweep)
    play(never)
    first = play(dealer_of(sweep), failing={("fisher", 0), ("random", 2)})
    failures = [record for record in first if record.status == "failed"]
    known = {record.id: record for record in first}
    # Killed among the trials that follow, it still knows that there were failures.
    for stop in (stop_after, None):
        dealer = dealer_of(sweep, [*known.values(), *failures])
        known |= {record.id: record for record in play(dealer, stop_after=stop)}
    assert dealer.identities == never.identities
    assert outline(known[one] for one in dealer.identities) == outline(known[one] for one in never.identities)
    assert any(record.status != "failed" and one not in dealer.identities for one, record in known.items())


def test_a_failure_that_stays_costs_nothing_but_itself(sweep):
    failing = {("fisher", 0)}
    first = play(dealer_of(sweep), failing=failing)
    again = play(dealer_of(sweep, first), failing=failing)
    assert [(record.arm, record.number, record.status) for record in again] == [("fisher", 0, "failed")]


def test_a_finished_sweep_deals_nothing_again(sweep):
    first = play(dealer_of(sweep))
    assert play(dealer_of(sweep, first)) == []


def test_more_seeds_deal_the_new_seeds_only(sweep, tmp_path):
    first = play(dealer_of(sweep))
    longer = small_sweep(tmp_path, "confirm.seeds=3")
    more = play(dealer_of(longer, first))
    assert {record.phase for record in more} == {"confirm"}
    assert {record.seed for record in more} == {max(record.seed for record in of_confirm(first)) + 1}


def test_records_of_another_teacher_are_not_taken_for_this_one(sweep, tmp_path):
    other = play(dealer_of(sweep))
    strangers = [type(record)(**vars(record) | {"teacher": "another"}) for record in other]
    assert outline(play(dealer_of(sweep, strangers))) == outline(other)


def test_a_group_opens_only_when_the_one_before_has_ended(sweep):
    dealer = dealer_of(sweep)
    dealt = [dealer.next() for _ in range(9)]
    searched = [spec for spec in dealt if spec.phase == "search"]
    assert Counter(spec.arm for spec in searched) == dict.fromkeys(SEARCHED, 2)
    assert dealt[8].phase == "confirm"  # of an arm that needs no search
    first, second = (spec for spec in searched if spec.arm == "fisher")
    dealer.finished(invented_record(first, sweep))
    assert dealer.next().phase == "confirm"
    dealer.finished(invented_record(second, sweep))
    assert dealer.next().arm == "fisher"


def test_an_arm_is_confirmed_when_its_own_search_has_ended(sweep):
    records = play(dealer_of(sweep), slots=4)
    for place, record in enumerate(records):
        if record.phase == "confirm":
            later = [other for other in records[place:] if other.phase == "search"]
            assert record.arm not in {other.arm for other in later}
            assert record.arm != "no_kd" or not later


def test_what_needs_no_search_fills_the_slots_that_the_search_leaves(sweep):
    phases = [record.phase for record in play(dealer_of(sweep), slots=40)]
    assert "search" in phases[phases.index("confirm") :]


@pytest.fixture(scope="module")
def unbroken(sweep):
    return outline(play(dealer_of(sweep), failing=FAILING))


FAILING = {("uniform", 2), ("scratch_kd", 0)}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), slots=st.integers(1, 7), kills=st.lists(st.integers(1, 25), max_size=3))
def test_the_same_trials_are_dealt_whatever_the_order_the_slots_and_the_kills(sweep, unbroken, data, slots, kills):
    def choose(n: int) -> int:
        return data.draw(st.integers(0, n - 1))

    known = {}
    for stop_after in [*kills, None]:
        ended = play(
            dealer_of(sweep, known.values()), slots=slots, choose=choose, stop_after=stop_after, failing=FAILING
        )
        repeated = {record.id for record in ended} & {key for key, r in known.items() if r.status != "failed"}
        assert not repeated
        known |= {record.id: record for record in ended}
    assert outline(known.values()) == unbroken


def test_an_arm_search_of_one_group_deals_all_at_once():
    made = []

    def make(numbers, earlier):
        made.append((list(numbers), len(earlier)))
        return [SimpleNamespace(number=number) for number in numbers]

    search = ArmSearch(make, n_trials=3, epochs=5, group_size=10)
    assert [search.next().number for _ in range(3)] == [0, 1, 2]
    assert search.next() is None
    assert made == [([0, 1, 2], 0)]
    assert not search.is_done
