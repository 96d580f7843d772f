"""From a sweep file and overrides to a complete sweep, or to all mistakes at once."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from raydistill.config import params, schema
from raydistill.config.checks import between_sections
from raydistill.config.mistakes import ABSENT, Mistake, either, from_pydantic, refuse
from raydistill.config.overrides import apply_override
from raydistill.config.space import Section
from raydistill.config.tables import Tables
from raydistill.config.tree import Dumper, Tree, read_tree
from raydistill.errors import ConfigError, UserError


def load_sweep(path: Path | str, overrides: Sequence[str] = (), *, tables: Tables) -> schema.Sweep:
    """Return the sweep of a file, with overrides applied and every default filled in.

    Args:
        path: The YAML file.
        overrides: ``KEY=VALUE`` each, the key dotted, the value in YAML; later ones win.
        tables: What may be named.

    Raises:
        ConfigError: All mistakes at once, each with its place, the rule and what would be right.
    """
    tree = read_tree(_read(Path(path)), str(path))
    if tree.mistakes and tree.value is None:
        refuse(_placed(tree.mistakes, tree), str(path))
    if not isinstance(tree.value, dict):
        mistake = Mistake((), "a sweep is a mapping of keys to values, starting with 'name:'", tree.value)
        refuse(_placed([mistake], tree), str(path))
    for override in overrides:
        apply_override(tree, override)
    sections, mistakes = _sections(tree, tables)
    refuse(_placed([*tree.mistakes, *mistakes], tree), str(path))
    return _resolved(schema.Sweep(**sections))


def dump_sweep(sweep: schema.Sweep) -> str:
    """Return a sweep as YAML, every default spelled out; it loads back equal."""
    return yaml.dump(plain_sweep(sweep), Dumper=Dumper, sort_keys=False, default_flow_style=None, width=100)


def plain_sweep(sweep: schema.Sweep) -> dict[str, Any]:
    """Return a sweep as dicts, lists and scalars with the keys of the sweep file."""
    content = sweep.model_dump(mode="json", by_alias=True, exclude={"data": {"params"}, "sections": True})
    content["data"] |= params.plain(sweep.data.params)
    content["selectors"] = [
        entry.model_dump(mode="json", exclude={"params"}, exclude_none=True) | params.plain(entry.params)
        for entry in sweep.selectors
    ]
    space = content["search"]["space"]
    content["search"]["space"] = {
        name: {kind: values for kind, values in space[name].items() if values is not None}
        for name in sweep.search.space.dimensions()
    }
    return content | params.plain(sweep.sections)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("the sweep file is not UTF-8 text", where=str(path)) from error
    except OSError as error:
        shipped = sorted(str(file) for file in Path("sweeps").glob("*.yaml"))
        mend = "files here: " + ", ".join(shipped) if shipped else "give the path of a YAML file"
        problem = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"the sweep file cannot be read: {problem}", where=str(path), mend=mend) from error


def _placed(mistakes: Sequence[Mistake], tree: Tree) -> Iterator[Mistake]:
    for mistake in mistakes:
        origin = mistake.origin or tree.origin(mistake.path)
        yield dataclasses.replace(mistake, origin=origin)


def _sections(tree: Tree, tables: Tables) -> tuple[dict[str, Any], list[Mistake]]:
    """Return the valid sections by name, and what is wrong with the others and between the valid ones."""
    mistakes: list[Mistake] = []
    found: dict[str, Any] = {}
    readers = {
        "data": lambda: _data(tree, tables, mistakes),
        "selectors": lambda: _selectors(tree, tables, mistakes),
        "controls": lambda: _controls(tree, mistakes),
    }
    _root(tree, tables, found, mistakes)
    for name, field in schema.Sweep.model_fields.items():
        if name in readers:
            value = readers[name]()
        elif name in ("name", "task", "sections"):  # read with the root
            continue
        elif tree.get((name,)) is ABSENT and field.is_required():
            mistakes.append(Mistake((name,), "required, but not given"))
            continue
        else:
            value = _validated(field.annotation, tree, (name,), mistakes)
        if value is not None:
            found[name] = value
    family = tree.get(("teacher", "family"))
    if isinstance(family, str) and family not in tables.families:
        mistakes.append(Mistake(("teacher", "family"), "no such model family", family, tuple(sorted(tables.families))))
    mistakes += between_sections(found, tables)
    return found, mistakes


def _root(tree: Tree, tables: Tables, found: dict[str, Any], mistakes: list[Mistake]) -> None:
    """Check the keys of the file itself; those that only the task knows make up ``sections``."""
    task = tree.get(("task",))
    kind = tables.sections.get(task) if isinstance(task, str) else None
    model = params.model_of(kind, schema.RootKeys) if kind else schema.RootKeys
    common = [name for name in schema.Sweep.model_fields if name not in (*schema.RootKeys.model_fields, "sections")]
    own = {key: value for key, value in tree.value.items() if key not in common}
    value = _validated(model, tree, (), mistakes, values=own, more_keys=common)
    if isinstance(task, str) and task not in tables.tasks:
        mistakes.append(Mistake(("task",), "no such task", task, tuple(tables.tasks)))
    elif value is not None:
        found |= {"name": value.name, "task": value.task}
        if kind:
            found["sections"] = _built(kind, value, (), mistakes)


def _data(tree: Tree, tables: Tables, mistakes: list[Mistake]) -> schema.Data | None:
    return _with_params(schema.DataKeys, schema.Data, "source", tables.sources, tree, ("data",), mistakes)


def _selectors(tree: Tree, tables: Tables, mistakes: list[Mistake]) -> tuple[schema.Selector, ...] | None:
    entries = tree.get(("selectors",))
    if not isinstance(entries, list) or not entries:
        rule = "required, but not given" if entries is ABSENT else "must be a list of at least one selector"
        mistakes.append(Mistake(("selectors",), rule, entries, tuple(sorted(tables.selectors))))
        return None
    before = len(mistakes)
    result = []
    for index, entry in enumerate(entries):
        path = ("selectors", index)
        values = {"name": entry} if isinstance(entry, str) else entry
        selector = _with_params(
            schema.SelectorKeys, schema.Selector, "name", tables.selectors, tree, path, mistakes, values=values
        )
        result.append(selector)
    return tuple(result) if len(mistakes) == before else None


def _controls(tree: Tree, mistakes: list[Mistake]) -> tuple[str, ...] | None:
    value = tree.get(("controls",))
    allowed = schema.CONTROLS.__args__
    if value is ABSENT:
        mistakes.append(Mistake(("controls",), "required, but not given; [] means none", allowed=allowed))
        return None
    return _validated(tuple[schema.CONTROLS, ...], tree, ("controls",), mistakes)


def _with_params(
    keys: type[Section],
    result: type[Section],
    name_key: str,
    table: Mapping[str, type],
    tree: Tree,
    path: tuple[str | int, ...],
    mistakes: list[Mistake],
    values: Any = None,
) -> Any:
    """Return a section whose further keys belong to whatever ``name_key`` names, or None where it is not valid."""
    values = tree.get(path) if values is None else values
    name = values.get(name_key, ABSENT) if isinstance(values, dict) else ABSENT
    if values is ABSENT or (isinstance(values, dict) and name is ABSENT):
        path = path if values is ABSENT else (*path, name_key)
        mistakes.append(Mistake(path, "required, but not given", allowed=tuple(sorted(table))))
        return None
    if isinstance(name, str) and name not in table:
        where = (*path, name_key) if isinstance(tree.get(path), dict) else path
        mistakes.append(
            Mistake(where, f"no such {'selector' if name_key == 'name' else name_key}", name, tuple(sorted(table)))
        )
        values = {key: value for key, value in values.items() if key in keys.model_fields}
        _validated(keys, tree, path, mistakes, values=values)
        return None
    kind = table[name] if isinstance(name, str) else None
    model = params.model_of(kind, keys) if kind else keys
    value = _validated(model, tree, path, mistakes, values=values)
    built = _built(kind, value, path, mistakes) if value is not None and kind else None
    if built is None:
        return None
    return result(**{key: getattr(value, key) for key in keys.model_fields}, params=built)


def _built(kind: type, value: Section, path: tuple[str | int, ...], mistakes: list[Mistake]) -> Any:
    try:
        return params.build(kind, value)
    except UserError as error:
        mistakes.append(Mistake(path, "; ".join(part for part in (error.what, error.mend) if part)))
    except ValueError as error:
        mistakes.append(Mistake(path, str(error)))
    return None


def _validated(
    kind: Any,
    tree: Tree,
    path: tuple[str | int, ...],
    mistakes: list[Mistake],
    *,
    values: Any = None,
    more_keys: Sequence[str] = (),
) -> Any:
    """Return the values at ``path`` as ``kind``, or None after noting every mistake in them."""
    values = tree.get(path) if values is None else values
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    if values is ABSENT or (values is None and is_model):
        values = {}
    try:
        # JSON, because pydantic's strict mode then takes lists for tuples, and still no text for numbers.
        return TypeAdapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        found = []
        for entry in error.errors(include_url=False):
            keys = [*_keys_at(kind, entry["loc"][:-1]), *(more_keys if len(entry["loc"]) == 1 else ())]
            place = _place(entry, values)
            found.append(from_pydantic(entry, (*path, *place), keys))
        mistakes += [dataclasses.replace(entry, given=tree.get(entry.path)) for entry in either(found)]
    return None


def _place(entry: dict[str, Any], values: Any) -> tuple[str | int, ...]:
    """Return where an error of pydantic lies, without the names that it gives to the branches of a union."""
    place: tuple[str | int, ...] = ()
    for number, part in enumerate(entry["loc"], 1):
        absent = entry["type"] == "missing" and number == len(entry["loc"])
        if isinstance(values, Mapping) and (part in values or absent):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part] if part < len(values) else None
        else:
            continue
        place = (*place, part)
    return place


def _keys_at(kind: Any, place: Sequence[str | int]) -> list[str]:
    """Return the keys that the model at a place below ``kind`` knows."""
    for part in place:
        field = _model(kind).model_fields.get(part) if _model(kind) else None
        kind = field.annotation if field else kind
    model = _model(kind)
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _model(kind: Any) -> type[BaseModel] | None:
    candidates = [kind, *getattr(kind, "__args__", ())]
    candidates += [inner for candidate in candidates for inner in getattr(candidate, "__args__", ())]
    return next((entry for entry in candidates if isinstance(entry, type) and issubclass(entry, BaseModel)), None)


def _resolved(sweep: schema.Sweep) -> schema.Sweep:
    """Return the sweep with the defaults filled in that follow from other sections."""
    from_training = ("lr", "batch_size", "weight_decay", "warmup", "schedule")
    defaults = {key: getattr(sweep.training, key) for key in from_training}
    if sweep.teacher.family is not None:
        defaults["dropout"] = 0.1
    missing = {key: value for key, value in defaults.items() if getattr(sweep.teacher, key) is None}
    teacher = sweep.teacher.model_copy(update=missing)
    analysis = sweep.analysis.model_copy(update={"reference": sweep.analysis.reference or "uniform"})
    return sweep.model_copy(update={"teacher": teacher, "analysis": analysis})
