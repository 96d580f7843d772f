"""What a person is told before anything runs agrees with what is then dealt."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from tuning_zoo import dealer_of, play, small_sweep

from raydistill.errors import ConfigError
from raydistill.training.tasks import NEXT_ITEM
from raydistill.tuning import estimate as estimate_module
from raydistill.tuning.plan import Plan


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def a_machine_of_known_speed(monkeypatch):
    monkeypatch.setattr(estimate_module, "_operations_per_second", lambda: 1e10)


@pytest.fixture
def plan_of(tmp_path, cache):
    def make(*overrides: str) -> Plan:
        sweep = small_sweep(tmp_path, *overrides)
        return Plan.of(sweep, NEXT_ITEM.prepared_data(sweep, cache))

    return make


LARGER = ("confirm.teachers=2", "confirm.configurations=2", "confirm.seeds=3")


@pytest.mark.parametrize("overrides", [(), LARGER], ids=["small", "larger"])
def test_counts_are_those_that_the_dealer_deals(plan_of, overrides):
    plan = plan_of("search.early_stopping=none", *overrides)
    dealt = Counter(record.arm for record in play(dealer_of(plan.sweep)))
    assert plan.trials_by_arm() == dict(dealt)


@pytest.mark.parametrize("overrides", [(), LARGER], ids=["small", "larger"])
def test_a_dry_run_has_one_line_a_trial(plan_of, overrides):
    plan = plan_of("search.early_stopping=none", *overrides)
    lines = plan.text(every_trial=True).splitlines()
    said = Counter(
        match.groups() for line in lines if (match := re.match(r"  (search|confirm) +(\S+) +(?:#|keep|as it is)", line))
    )
    dealt = Counter((record.phase, record.arm) for record in play(dealer_of(plan.sweep)))
    assert said == dealt
    assert len(set(lines)) == len(lines)


def test_a_dry_run_says_the_configurations_that_will_run(plan_of):
    plan = plan_of("search.early_stopping=none")
    lines = [line for line in plan.text(every_trial=True).splitlines() if "search  fisher" in line]
    dealer = dealer_of(plan.sweep)
    play(dealer)
    for number, record in sorted(dealer.searches["fisher"].records.items()):
        assert f"#{number} " in lines[number]
        assert f"keep {record.keep_ratio:g} ({record.n_student_layers} layers)" in lines[number]
        if number < plan.sweep.search.startup:
            assert f"temperature={record.configuration['temperature']:.3g}" in lines[number]
        else:
            assert "results before it" in lines[number]


def test_the_content_names_arms_budgets_and_every_confirm_job(plan_of):
    plan = plan_of()
    before = plan.content()
    assert before["confirm"]["jobs"] == []
    dealer = dealer_of(plan.sweep)
    records = play(dealer)
    content = plan.content(dealer)
    budgets = {arm["name"]: (arm["kind"], arm["trials"], arm["epochs"]) for arm in content["arms"]}
    assert budgets["fisher"] == ("selector", 6, 54)
    assert budgets["scratch_kd"] == ("control", 6, 54)
    assert budgets["no_kd"] == ("control", 0, 0)
    assert content["strata"] == [
        {"n_student_layers": 2, "keep_ratio": 0.25},
        {"n_student_layers": 4, "keep_ratio": 0.5},
    ]
    confirms = Counter(record.arm for record in records if record.phase == "confirm")
    assert {arm["name"]: arm["confirm_trials"] for arm in before["arms"]} == dict(confirms)
    confirmed = {record.id for record in records if record.phase == "confirm"}
    assert {job["id"] for job in content["confirm"]["jobs"]} == confirmed
    assert content["confirm"]["seeds"] == [1, 2]
    assert content["analysis"]["reference"] in (None, "uniform")


@pytest.mark.parametrize(
    ("override", "grows"),
    [
        ("search.trials=12", ("search_s",)),
        ("training.epochs=18", ("search_s", "confirm_s", "trial_s")),
        ("confirm.seeds=4", ("confirm_s", "disk_bytes")),
        ("confirm.teachers=2", ("teacher_s", "confirm_s")),
        ("teacher.epochs=20", ("teacher_s",)),
        ("search.space.keep_ratio={choice: [0.5, 1.0]}", ("trial_s",)),
    ],
)
def test_more_work_is_estimated_to_cost_more(plan_of, override, grows):
    small, large = plan_of("execution.concurrency=2").cost, plan_of("execution.concurrency=2", override).cost
    for name in ("teacher_s", "search_s", "confirm_s", "trial_s", "memory_bytes", "disk_bytes"):
        assert getattr(large, name) >= getattr(small, name)
    for name in grows:
        assert getattr(large, name) > getattr(small, name)
    assert large.minutes >= small.minutes


def test_more_at_once_takes_less_time_and_more_memory(plan_of):
    one, four = (plan_of(f"execution.concurrency={n}").cost for n in (1, 4))
    assert four.search_s == pytest.approx(one.search_s / 4)
    assert four.memory_bytes > one.memory_bytes


def test_a_teacher_of_one_layer_is_refused_before_it_is_trained(plan_of):
    with pytest.raises(ConfigError, match="one layer") as caught:
        plan_of("teacher.layers=1", "search.space.keep_ratio={choice: [1.0]}")
    assert caught.value.where == "teacher.layers"


def test_the_speed_of_this_machine_is_a_number_of_operations(monkeypatch):
    monkeypatch.undo()
    assert 1e7 < estimate_module._operations_per_second() < 1e14


@pytest.mark.parametrize(
    ("overrides", "least"), [(("search.trials=1",), 2), (("search.trials=3", "confirm.configurations=2"), 4)]
)
def test_a_search_too_small_for_its_keep_ratios_is_refused(plan_of, overrides, least):
    with pytest.raises(ConfigError, match="too few for 2 keep-ratios") as caught:
        plan_of(*overrides)
    assert caught.value.where == "search.trials"
    assert f"at least {least}," in caught.value.mend
    plan = plan_of(*overrides, f"search.trials={least}")
    dealer = dealer_of(plan.sweep)
    play(dealer)
    assert {spec.n_student_layers for spec in dealer.confirm if spec.arm == "fisher"} == {2, 4}


def test_confirm_trials_that_the_search_found_nothing_for_are_named(plan_of):
    plan = plan_of("search.trials=2", "search.early_stopping=none")
    dealer = dealer_of(plan.sweep)
    assert plan.content(dealer)["confirm"]["missing"] == []
    play(dealer, failing={("fisher", 1)})
    (missing,) = plan.content(dealer)["confirm"]["missing"]
    assert missing == {"arm": "fisher", "keep_ratio": 0.5, "planned": 2, "found": 0}
    whole = dealer_of(plan.sweep)
    play(whole)
    assert plan.missing(whole) == []
