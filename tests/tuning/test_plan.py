"""What a person is told before anything runs agrees with what is then dealt."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from tuning_zoo import dealer_of, play, small_sweep

from raydistill.errors import ConfigError, DataError, EvidenceError
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

    make.cache = cache
    return make


FEW_SETS = ("teacher.layers=4", "selectors=[uniform, {name: random, draws: 5}]")  # four sets of one layer, six of two
LARGER = ("confirm.teachers=2", "confirm.configurations=2", "confirm.seeds=3")


@pytest.mark.parametrize("overrides", [(), LARGER, FEW_SETS], ids=["small", "larger", "few sets"])
def test_counts_are_those_that_the_dealer_deals(plan_of, overrides):
    plan = plan_of("search.early_stopping=none", *overrides)
    dealt = Counter(record.arm for record in play(dealer_of(plan.sweep)))
    assert plan.trials_by_arm() == dict(dealt)


@pytest.mark.parametrize("overrides", [(), LARGER, FEW_SETS], ids=["small", "larger", "few sets"])
def test_a_dry_run_has_one_line_a_trial(plan_of, overrides):
    plan = plan_of("search.early_stopping=none", *overrides)
    lines = plan.text(every_trial=True).splitlines()
    said = Counter(
        match.groups() for line in lines if (match := re.match(r"  (search|confirm) +(\S+) +(?:#|keep|as it is)", line))
    )
    dealt = Counter((record.phase, record.arm) for record in play(dealer_of(plan.sweep)))
    assert said == dealt
    assert len(set(lines)) == len(lines)


def test_fewer_draws_than_were_asked_for_are_said(plan_of):
    plan = plan_of("search.early_stopping=none", *FEW_SETS)
    (line,) = [line for line in plan.text().splitlines() if "no more sets" in line]
    assert line.strip().startswith("random has 4 draws in place of 5 at 1 of 4 layers")
    assert "no more sets" not in plan_of().text()
    dealer = dealer_of(plan.sweep)
    play(dealer)
    assert plan.missing(dealer) == []
    maps = Counter(spec.layer_map for spec in dealer.confirm if spec.arm == "random")
    assert Counter(len(layers) for layers in maps) == {1: 4, 2: 5}
    assert set(maps.values()) == {2}  # one of each of the two seeds


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
        ("confirm.teachers=2", ("teacher_s", "confirm_s", "cache_bytes", "disk_bytes")),
        ("teacher.epochs=20", ("teacher_s",)),
        ("search.space.keep_ratio={choice: [0.5, 0.75]}", ("trial_s",)),
    ],
)
def test_more_work_is_estimated_to_cost_more(plan_of, override, grows):
    small, large = (costs(plan_of("execution.concurrency=2", *more).cost) for more in ((), (override,)))
    assert all(large[name] >= small[name] for name in small)
    for name in grows:
        assert large[name] > small[name]


def costs(cost) -> dict[str, float]:
    phases = dict(zip(("teacher_s", "search_s", "confirm_s"), cost.phase_s, strict=True))
    names = ("trial_s", "minutes", "memory_bytes", "cache_bytes", "disk_bytes")
    return phases | {name: getattr(cost, name) for name in names}


def test_more_at_once_takes_less_time_and_more_memory(plan_of):
    one, four = (costs(plan_of(f"execution.concurrency={n}").cost) for n in (1, 4))
    assert four["search_s"] == pytest.approx(one["search_s"] / 4)
    assert four["memory_bytes"] > one["memory_bytes"]


def test_workers_share_a_trial_and_take_the_place_of_other_trials(plan_of, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    one, two = (plan_of(f"execution.workers={n}").cost for n in (1, 2))
    assert (one.concurrency, two.concurrency) == (8, 4)
    assert two.trial_flop == one.trial_flop
    assert two.speed == 2 * one.speed


@pytest.mark.parametrize("override", ["execution.gpus_per_worker=1", "execution.gpus_per_trial=0.25"])
def test_where_gpus_are_asked_for_operations_are_said_and_no_minutes(plan_of, override):
    on_processors, on_gpus = plan_of(), plan_of(override)
    text = on_gpus.text(every_trial=True)
    assert "the speed of the GPUs is not known here" in text
    assert not re.search(r"[0-9] (min|s)\b", text)
    assert len(re.findall(r"[0-9] (min|s)\b", on_processors.text(every_trial=True))) > 3
    search = next(line for line in text.splitlines() if line.startswith("  search "))
    assert search.endswith(f"{on_gpus.cost.phase_flop[1]:.1e} FLOP")
    assert on_gpus.cost.phase_flop == on_processors.cost.phase_flop
    assert f"{on_gpus.cost.trial_bytes / 2**30:.1f} GB of memory a trial" in text


@pytest.mark.parametrize("overrides", [(), ("execution.gpus_per_trial=1",)])
def test_the_size_of_the_cache_is_said_by_itself(plan_of, overrides):
    plan = plan_of(*overrides, "data.n_users=2000", "confirm.teachers=2")
    (line,) = [line for line in plan.text().splitlines() if line.startswith("  cache ")]
    targets = NEXT_ITEM.workload(plan.sweep, NEXT_ITEM.prepared_data(plan.sweep, plan_of.cache)).targets
    assert plan.cost.cache_bytes == 2 * 2 * 8 * targets  # two teachers, two bytes, eight dimensions
    assert line.endswith(f"{plan.cost.cache_bytes / 2**20:.1f} MB")


def test_a_teacher_of_one_layer_is_refused_before_it_is_trained(plan_of):
    with pytest.raises(ConfigError, match="one layer") as caught:
        plan_of("teacher.layers=1", "search.space.keep_ratio={choice: [1.0]}")
    assert caught.value.where == "teacher.layers"


def test_more_calibration_examples_than_there_are_are_refused_before_a_teacher_is_trained(plan_of):
    plan = plan_of()
    n = NEXT_ITEM.workload(plan.sweep, NEXT_ITEM.prepared_data(plan.sweep, plan_of.cache)).examples
    with pytest.raises(EvidenceError, match=f"{n + 1} calibration examples") as caught:
        plan_of(f"evidence.samples={n + 1}")
    assert (caught.value.where, str(n) in caught.value.mend) == ("evidence.samples", True)
    plan_of(f"evidence.samples={n}")


THREE_EACH = ("data.shortest=3", "data.longest=3", "data.min_interactions=3", "evidence.samples=1")


def test_data_without_a_training_example_are_refused_before_anything_runs(plan_of):
    with pytest.raises(DataError, match="no user has two interactions in the training part") as caught:
        plan_of(*THREE_EACH)
    assert caught.value.where == "data.split"
    # A model that looks both ways learns from a single one.
    assert plan_of(*THREE_EACH, "teacher.family=bert").strata


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
