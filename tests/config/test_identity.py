"""Identities: every field moves the ones that it can change, and no other."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from raydistill.config import (
    Sweep,
    artifact_identity,
    cache_identity,
    data_identity,
    dump_sweep,
    evidence_identity,
    sweep_identity,
    teacher_identity,
    trial_identity,
)

Path = tuple[str | int, ...]

EVERYTHING = (
    "data={source: file, variant: small}",
    "selectors=[score, {name: score, label: b}, {name: mix, weights: {a: 1, b: 2}}, uniform, {name: random, draws: 2}]",
    "controls=[teacher, scratch]",
    "search.space={keep_ratio: {choice: [0.25, 0.5]}, temperature: {log_uniform: [1, 10]},"
    " alpha_dist: {uniform: [0, 1]}, alpha_task: {choice: [0.1]}, alpha_hidden: {int: [0, 1]},"
    " lr: {choice: [1e-3]}, weight_decay: {choice: [0.1]}}",
)


def children(value: Any) -> list[tuple[str | int, Any]]:
    if isinstance(value, BaseModel):
        return [(name, getattr(value, name)) for name in type(value).model_fields]
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, tuple) else []


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every value that holds no others."""
    if not children(value):
        yield path
    for key, child in children(value):
        yield from leaves(child, (*path, key))


def changed(value: Any, path: Path) -> Any:
    """Return ``value`` with nothing but the leaf at ``path`` changed, whether or not that is a valid sweep."""
    if path:
        new = changed(dict(children(value))[path[0]], path[1:])
        if isinstance(value, BaseModel):
            return value.model_copy(update={path[0]: new})
        if isinstance(value, tuple):
            return (*value[: path[0]], new, *value[path[0] + 1 :])
        if isinstance(value, Mapping):
            return {**value, path[0]: new}
        return dataclasses.replace(value, **{path[0]: new})
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return "changed" if value != () else ("changed",)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the changed value may be of another type
def test_every_field_but_execution_moves_the_identity_of_the_sweep(load):
    sweep = load(*EVERYTHING)
    paths = [path for path in leaves(sweep) if path[-1] != "params" and path != ("sections",)]
    assert len(paths) > 110
    names = {path: sweep_identity(changed(sweep, path)) for path in paths}
    unmoved = {path for path in paths if names[path] == sweep_identity(sweep)}
    assert unmoved == {path for path in paths if path[0] == "execution"}
    moved = [name for path, name in names.items() if path not in unmoved]
    assert len(set(moved)) == len(moved)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_the_walk_sees_every_key_of_the_schema(load):
    written = {path[:2] for path in leaves(load(*EVERYTHING))}
    for name, field in Sweep.model_fields.items():
        for key in getattr(field.annotation, "model_fields", {}):
            assert (name, key) in written


def upstream(sweep: Sweep) -> dict[str, str]:
    """Return every identity, each from those before it, as the sweep does."""
    teacher = teacher_identity(sweep, data_hash=data_identity(sweep), seed=sweep.teacher.seed)
    return {
        "data": data_identity(sweep),
        "teacher": teacher,
        "evidence": evidence_identity(sweep, teacher),
        "cache": cache_identity(sweep, teacher),
        "trial": trial_identity(sweep, {"teacher": teacher, "seed": 0}),
    }


BELOW_TEACHER = {"teacher", "evidence", "cache", "trial"}


@pytest.mark.parametrize(
    ("override", "moved"),
    [
        ("name=other", set()),
        ("data.users=7", {"data", *BELOW_TEACHER}),
        ("data.split=global_time", {"data", *BELOW_TEACHER}),
        ("data.max_length=20", BELOW_TEACHER),
        ("teacher.layers=6", BELOW_TEACHER),
        ("teacher.epochs=31", BELOW_TEACHER),
        ("teacher.seed=1", BELOW_TEACHER),
        ("teacher.lr=0.5", BELOW_TEACHER),
        ("training.precision=bfloat16", BELOW_TEACHER),
        ("training.mask_patterns=2", BELOW_TEACHER),
        ("training.lr=0.5", BELOW_TEACHER),  # the teacher takes it where it has none of its own
        ("training.epochs=9", {"trial"}),
        ("distillation.temperature=2", {"trial"}),
        ("evidence.samples=16", {"evidence"}),
        ("selectors=[uniform]", {"evidence"}),
        ("search.space.keep_ratio.choice=[0.25]", {"evidence"}),
        ("search.objectives={mrr: max, flops: min}", BELOW_TEACHER),  # decides which epoch is kept
        ("search.objectives={ndcg@10: max}", set()),
        ("search.trials=13", set()),
        ("search.seed=3", set()),
        ("search.space.temperature={uniform: [1, 2]}", set()),
        ("controls=[]", set()),
        ("confirm.seeds=2", set()),
        ("analysis.margin=0.5", set()),
        ("execution.workers=2", set()),
        ("execution.storage=elsewhere", set()),
    ],
)
def test_what_a_change_moves(load, override, moved):
    before, after = upstream(load()), upstream(load(override))
    assert {name for name in before if before[name] != after[name]} == moved


def test_own_values_of_the_teacher_shield_it_from_those_of_the_students(load):
    own = ("teacher.lr=0.1", "teacher.batch_size=8")
    before, after = upstream(load(*own)), upstream(load(*own, "training.lr=0.5", "training.batch_size=64"))
    assert {name for name in before if before[name] != after[name]} == {"trial"}


def test_arguments_move_identities(load):
    sweep = load()
    assert teacher_identity(sweep, "a", 0) != teacher_identity(sweep, "b", 0)
    assert teacher_identity(sweep, "a", 0) != teacher_identity(sweep, "a", 1)
    assert evidence_identity(sweep, "a") != evidence_identity(sweep, "b")
    assert cache_identity(sweep, "a") != cache_identity(sweep, "b")
    assert trial_identity(sweep, {"seed": 0}) != trial_identity(sweep, {"seed": 1})
    assert trial_identity(sweep, {"a": 1, "b": 2}) == trial_identity(sweep, {"b": 2, "a": 1})


def test_identities_are_sixteen_hex_digits_and_differ_by_kind(load):
    names = [*upstream(load()).values(), sweep_identity(load()), artifact_identity("a", {}), artifact_identity("b", {})]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in names)


def test_the_version_of_artifacts_moves_every_identity(load, monkeypatch):
    before = {**upstream(load()), "sweep": sweep_identity(load())}
    monkeypatch.setattr("raydistill.config.identity.ARTIFACT_VERSION", 10**6)
    after = {**upstream(load()), "sweep": sweep_identity(load())}
    assert not set(before.values()) & set(after.values())


def test_an_identity_survives_writing_and_reading(load):
    sweep = load(*EVERYTHING)
    assert sweep_identity(load(text=dump_sweep(sweep))) == sweep_identity(sweep)


def test_the_sections_of_a_task_move_the_teacher(load, minimal):
    text = minimal.replace("next_item", "preference")
    one = load(text=text + "prompt: {template: a}\n")
    two = load(text=text + "prompt: {template: b}\n")
    assert teacher_identity(one, "d", 0) != teacher_identity(two, "d", 0)
    assert sweep_identity(one) != sweep_identity(two)
