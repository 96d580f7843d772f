"""What every selector in the table promises; a selector added to the table is picked up here."""

from __future__ import annotations

import ast
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import raydistill.selectors as selectors
from raydistill.errors import EvidenceError
from raydistill.selectors import KINDS, RUN_KINDS, SELECTORS

N_TEACHER = 7
# Parameters beside the defaults, so that each branch of each selector goes through the contract.
VARIANTS = {
    "fisher": [
        {"labels": "empirical", "aggregate": "mean", "choose": "stratified"},
        {"aggregate": "mean"},
        {"labels": "empirical"},
    ],
    "attention": [{"choose": "top_k_ends"}],
    "hybrid": [
        {"weights": {"taylor": 1.0, "leave_one_out": 2.0}, "normalize": "rank", "choose": "top_k_ends"},
        {"weights": {"fisher_mean": 0.5, "gradient": 0.0}, "normalize": "share"},
        {"weights": {"contiguous": 0.5, "block_influence": 0.5}},
    ],
    "taylor": [{"form": "group"}, {"form": "block", "choose": "stratified"}],
    "tail": [{"drop": "first"}],
    "random": [{"draws": 2}],
}
CASES = [(name, given) for name in SELECTORS for given in [{}, *VARIANTS.get(name, [])]]
every_case = pytest.mark.parametrize(("name", "given"), CASES, ids=lambda value: str(value))


def params_of(name, given):
    return TypeAdapter(SELECTORS[name].params_type).validate_python(given)


def made(fill, n_layers=N_TEACHER, replicates=3):
    """Return evidence of every kind; ``fill(shape)`` gives the numbers."""
    return {k: fill((replicates, n_layers, n_layers) if k in RUN_KINDS else (replicates, n_layers)) for k in KINDS}


def drawn(seed, **shape):
    return made(np.random.default_rng(seed).random, **shape)


def select(name, given, evidence, n_student, n_teacher=N_TEACHER, seed=0):
    return SELECTORS[name].select(
        evidence, n_student, n_teacher=n_teacher, params=params_of(name, given), generator=np.random.default_rng(seed)
    )


def assert_layer_map(layers, n_student, n_teacher=N_TEACHER):
    assert isinstance(layers, tuple)
    assert all(type(layer) is int for layer in layers)
    assert len(layers) == n_student
    assert list(layers) == sorted(set(layers))
    assert set(layers) <= set(range(n_teacher))


def test_table_names_are_the_selectors_own_names_and_every_file_is_in_it():
    assert all(selector.name == name for name, selector in SELECTORS.items())
    files = {path.stem for path in Path(selectors.__file__).parent.glob("*.py")} - {"__init__", "base", "agreement"}
    assert files == set(SELECTORS)


@every_case
def test_layer_map_is_ascending_distinct_and_of_the_asked_length(name, given):
    for seed in range(5):
        for n_student in range(1, N_TEACHER + 1):
            assert_layer_map(select(name, given, drawn(seed), n_student), n_student)


@every_case
def test_keeping_all_layers_is_the_identity(name, given):
    assert select(name, given, drawn(1), N_TEACHER) == tuple(range(N_TEACHER))
    assert select(name, given, drawn(1, n_layers=1), 1, n_teacher=1) == (0,)


@every_case
def test_same_evidence_and_seed_give_the_same_layers(name, given):
    assert select(name, given, drawn(2), 3, seed=5) == select(name, given, drawn(2), 3, seed=5)


@every_case
def test_seed_bites_exactly_where_the_selector_is_declared_stochastic(name, given):
    maps = {select(name, given, drawn(3), 3, seed=seed) for seed in range(20)}
    assert (len(maps) > 1) == SELECTORS[name].stochastic


@every_case
def test_global_random_state_is_neither_read_nor_moved(name, given):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = select(name, given, drawn(3), 3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(1)
    assert select(name, given, drawn(3), 3) == first


@every_case
@pytest.mark.parametrize("fill", [np.zeros, np.ones, lambda shape: np.full(shape, 1e-300)])
def test_tied_evidence_gives_a_valid_repeatable_map(name, given, fill):
    for n_student in range(1, N_TEACHER + 1):
        first = select(name, given, made(fill), n_student)
        assert_layer_map(first, n_student)
        assert select(name, given, made(fill), n_student) == first


@every_case
def test_inputs_are_not_mutated_and_scores_are_no_view_of_them(name, given):
    evidence = drawn(4)
    copies = {kind: array.copy() for kind, array in evidence.items()}
    for array in evidence.values():
        array.flags.writeable = False
    select(name, given, evidence, 3)
    scores = SELECTORS[name].scores(evidence, params_of(name, given))
    assert scores is None or not any(np.shares_memory(scores, array) for array in evidence.values())
    for kind, array in evidence.items():
        np.testing.assert_array_equal(array, copies[kind])


@every_case
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_evidence_that_is_not_finite_is_refused_with_a_mend(name, given, bad):
    for kind in SELECTORS[name].needs(params_of(name, given)):
        evidence = drawn(5)
        evidence[kind][1, 2] = bad
        with pytest.raises(EvidenceError, match="layers \\[2\\]") as caught:
            select(name, given, evidence, 3)
        assert caught.value.mend


@every_case
def test_evidence_that_is_not_needed_is_not_looked_at(name, given):
    evidence = drawn(6)
    needs = SELECTORS[name].needs(params_of(name, given))
    lean = {kind: evidence[kind] for kind in needs}
    assert select(name, given, lean, 3) == select(name, given, evidence, 3)
    for kind in needs:
        with pytest.raises(EvidenceError, match="was not measured"):
            select(name, given, {other: lean[other] for other in needs if other != kind}, 3)


@every_case
def test_evidence_of_another_teacher_is_refused(name, given):
    if SELECTORS[name].needs(params_of(name, given)):
        with pytest.raises(EvidenceError, match="shape"):
            select(name, given, drawn(7, n_layers=N_TEACHER + 1), 3)


@every_case
@pytest.mark.parametrize("n_student", [0, -1, N_TEACHER + 1])
def test_impossible_depth_is_refused(name, given, n_student):
    with pytest.raises(EvidenceError, match="cannot be built"):
        select(name, given, drawn(8), n_student)


@every_case
def test_needs_are_known_kinds_and_scores_have_the_layers_shape(name, given):
    params = params_of(name, given)
    assert set(SELECTORS[name].needs(params)) <= set(KINDS)
    scores = SELECTORS[name].scores(drawn(9), params)
    assert scores is None or (scores.shape == (3, N_TEACHER) and scores.dtype == np.float64)


@every_case
def test_params_are_frozen_and_survive_yaml(name, given):
    params = params_of(name, given)
    again = params_of(name, yaml.safe_load(yaml.safe_dump(asdict(params))))
    assert again == params
    assert type(params).__dataclass_params__.frozen
    assert all(getattr(params, key) == value for key, value in given.items())


@pytest.mark.parametrize("name", SELECTORS)
def test_unknown_keys_and_values_outside_the_allowed_ones_are_refused(name):
    with pytest.raises(ValidationError):
        params_of(name, {"no_such_key": 1})
    for field in fields(SELECTORS[name].params_type):
        with pytest.raises(ValidationError):
            params_of(name, {field.name: "no_such_value"})


@pytest.mark.parametrize("name", SELECTORS)
def test_module_says_idea_paper_formula_and_symbols(name):
    text = ast.get_docstring(ast.parse((Path(selectors.__file__).parent / f"{name}.py").read_text()))
    assert all(f"\n{heading}" in text for heading in ("Idea:", "Paper:", "Formula", "Symbols:"))


@every_case
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_finite_evidence_gives_a_valid_map(name, given, data):
    n_layers = data.draw(st.integers(1, 13))
    n_student = data.draw(st.integers(1, n_layers))
    scale = data.draw(st.sampled_from([1e-12, 1.0, 1e12]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    # Rounded draws have many ties.
    evidence = made(lambda shape: scale * np.round(rng.random(shape), 1), n_layers=n_layers, replicates=2)
    assert_layer_map(select(name, given, evidence, n_student, n_teacher=n_layers), n_student, n_layers)
