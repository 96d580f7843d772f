"""Reading a sweep: values, defaults, overrides, and writing it back."""

from __future__ import annotations

import pickle
from dataclasses import make_dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.config import dump_sweep, load_sweep, plain_sweep
from raydistill.config.params import model_of
from raydistill.config.schema import DataKeys
from raydistill.config.tree import Dumper, read_tree
from raydistill.errors import ConfigError


def test_smallest_sweep_has_the_written_values_and_the_documented_defaults(load):
    sweep = load()
    assert (sweep.name, sweep.task, sweep.data.source, sweep.data.params.users) == (
        "small",
        "next_item",
        "invented",
        100,
    )
    assert (sweep.data.split, sweep.data.min_interactions, sweep.data.max_length) == ("leave_one_out", 5, 50)
    assert [entry.arm for entry in sweep.selectors] == ["score", "uniform"]
    assert sweep.training.lr == 0.001
    assert sweep.distillation.model_dump() == {
        "temperature": 4.0,
        "alpha_dist": 0.7,
        "alpha_task": None,
        "alpha_hidden": 0.0,
    }
    assert sweep.search.objectives == {"ndcg@10": "max", "backbone_parameters": "min"}
    assert sweep.search.space.keep_ratio.kind == "choice"
    assert sweep.search.space.keep_ratio.values == (0.25, 0.5)
    assert list(sweep.search.space.dimensions()) == ["keep_ratio", "temperature"]
    assert (sweep.execution.address, sweep.execution.concurrency) == ("auto", "auto")


def test_defaults_that_follow_from_other_sections(load):
    sweep = load("training.schedule=constant")
    assert (sweep.teacher.lr, sweep.teacher.batch_size, sweep.teacher.schedule) == (0.001, 128, "constant")
    assert (sweep.teacher.dropout, sweep.analysis.reference) == (0.1, "uniform")
    own = load("teacher.lr=5e-4", "teacher.batch_size=64", "teacher.warmup=0", "training.warmup=0.2")
    assert (own.teacher.lr, own.teacher.batch_size, own.teacher.warmup) == (0.0005, 64, 0.0)
    pretrained = load("teacher={pretrained: some/model, epochs: 0}")
    assert (pretrained.teacher.dropout, pretrained.teacher.layers) == (None, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+2", 100.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("012", 12),
        ("-7", -7),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("true", True),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("off", "off"),
        ("2020-01-01", "2020-01-01"),
        ("1:30", "1:30"),
        ("0x1F", "0x1F"),
        ("'1e-3'", "1e-3"),
        ("1e", "1e"),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("{a: {b: [1]}}", {"a": {"b": [1]}}),
    ],
)
def test_scalars_are_read_as_yaml_1_2_has_them(text, value):
    read = read_tree(text, "here")
    assert read.mistakes == []
    assert read.value == value
    assert type(read.value) is type(value)


def test_every_value_knows_its_line():
    tree = read_tree("a: 1\nb:\n  - x\n  - c: 2\n    d:\n      - 5\n", "f")
    lines = {path: origin.line for path, origin in tree.origins.items()}
    assert lines == {
        (): 1,
        ("a",): 1,
        ("b",): 2,
        ("b", 0): 3,
        ("b", 1): 4,
        ("b", 1, "c"): 4,
        ("b", 1, "d"): 5,
        ("b", 1, "d", 0): 6,
    }


def test_selector_entries_take_labels_and_parameters(load):
    sweep = load(
        "selectors=[score, {name: score, label: mine, labels: data}, {name: mix, weights: {a: 1}}, random]",
        "selectors.3={name: random, draws: 3}",
        "analysis.reference=mine",
    )
    assert [entry.arm for entry in sweep.selectors] == ["score", "mine", "mix", "random"]
    assert [entry.params.labels for entry in sweep.selectors[:2]] == ["model", "data"]
    assert sweep.selectors[2].params.weights == {"a": 1.0}
    assert sweep.selectors[3].params.draws == 3


def test_source_parameters_stand_beside_the_common_keys(load):
    sweep = load("data={source: file, variant: large, columns: [u, i, t], max_length: 20}")
    assert sweep.data.params.variant == "large"
    assert sweep.data.params.columns == ("u", "i", "t")
    assert sweep.data.max_length == 20


def test_a_task_may_have_sections_of_its_own(load, minimal):
    text = minimal.replace("next_item", "preference") + "prompt: {template: 'x {{ y }}'}\n"
    sweep = load(text=text)
    assert sweep.sections.prompt.template == "x {{ y }}"
    assert (sweep.sections.prompt.max_tokens, sweep.sections.threshold) == (64, 3.5)
    assert load(text=dump_sweep(sweep)) == sweep


def test_overrides_replace_create_and_index(load):
    sweep = load(
        "search.trials=4",
        "search.trials=5",
        "selectors.1=tail",
        "selectors.0={name: mix}",
        "selectors.0.weights={b: 2}",
        "evidence.samples=16",
        "search.objectives={mrr: max}",
        "analysis.reference=tail",
        "name=it",
    )
    assert (sweep.name, sweep.search.trials, sweep.evidence.samples) == ("it", 5, 16)
    assert [entry.arm for entry in sweep.selectors] == ["mix", "tail"]
    assert sweep.selectors[0].params.weights == {"b": 2.0}
    assert sweep.search.objectives == {"mrr": "max"}


FULL = (
    "data={source: file, variant: small, split: global_time, time_cuts: [0.7, 0.8], min_rating: 3.5}",
    "selectors=[score, {name: score, label: b, choose: stratified}, uniform, {name: random, draws: 2}]",
    "controls=[teacher, popularity, scratch, scratch_kd, no_kd]",
    "search.space={keep_ratio: {uniform: [0.2, 0.8]}, alpha_dist: {int: [0, 1]}, lr: {choice: [1e-5, 1e-3]}}",
    "execution={address: 'head:6379', concurrency: 3, trackers: [], gpus_per_trial: 0.25}",
    "training.clip=null",
)


@pytest.mark.parametrize("overrides", [(), FULL, ("teacher={pretrained: '1e-3', epochs: 2}",)])
def test_dump_loads_back_equal_and_spells_out_every_default(load, tmp_path, overrides, tables):
    sweep = load(*overrides)
    text = dump_sweep(sweep)
    file = tmp_path / "resolved.yaml"
    file.write_text(text, encoding="utf-8")
    assert load_sweep(file, tables=tables) == sweep
    written = read_tree(text, "resolved").value
    for name in ("teacher", "evidence", "training", "distillation", "confirm", "analysis", "execution"):
        assert set(written[name]) == set(type(getattr(sweep, name)).model_fields)
    assert set(written["search"]) == set(type(sweep.search).model_fields)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )
)
def test_what_is_written_is_read_back(value):
    text = yaml.dump(value, Dumper=Dumper, default_flow_style=None)
    tree = read_tree(text, "here")
    assert (tree.value, tree.mistakes) == (value, [])


def test_a_sweep_is_frozen_and_travels_between_processes(load):
    sweep = load()
    with pytest.raises(ValueError, match="frozen"):
        sweep.search.trials = 3
    assert pickle.loads(pickle.dumps(sweep)) == sweep


def test_plain_sweep_has_no_keys_but_those_of_the_file(load):
    plain = plain_sweep(load("data.users=7"))
    assert plain["data"]["users"] == 7
    assert plain["search"]["space"] == {
        "keep_ratio": {"choice": [0.25, 0.5]},
        "temperature": {"log_uniform": [1.0, 10.0]},
    }
    assert plain["selectors"] == [{"name": "score", "labels": "model", "choose": "top_k"}, {"name": "uniform"}]
    assert "params" not in plain["data"]
    assert "sections" not in plain


def test_the_same_file_by_text_and_by_path(tmp_path, minimal, tables):
    file = tmp_path / "a.yaml"
    file.write_text(minimal)
    assert load_sweep(str(file), tables=tables) == load_sweep(Path(file), tables=tables)


def test_shared_keys_of_a_source_are_a_mistake_of_its_author():
    with pytest.raises(TypeError, match="max_length"):
        model_of(make_dataclass("Clash", [("max_length", int, 3)], frozen=True), DataKeys)


def test_a_missing_file_names_itself(tmp_path, tables):
    with pytest.raises(ConfigError, match="No such file") as caught:
        load_sweep(tmp_path / "none.yaml", tables=tables)
    assert str(tmp_path / "none.yaml") in str(caught.value)
