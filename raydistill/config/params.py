"""Frozen params dataclasses, validated and listed as if they were sections of the sweep file."""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any

import pydantic

from raydistill.config.space import Section


def names(kind: type) -> tuple[str, ...]:
    """Return the names of a dataclass's parameters."""
    return tuple(field.name for field in dataclasses.fields(kind) if field.init)


@functools.cache
def model_of(kind: type, base: type[Section] = Section) -> type[Section]:
    """Return the keys of ``base`` and the fields of a dataclass as one strict model.

    Raises:
        TypeError: The two share a key, which is a mistake of whoever wrote the dataclass.
    """
    shared = set(names(kind)) & set(base.model_fields)
    if shared:
        raise TypeError(f"{kind.__name__} has fields that every entry has already: {sorted(shared)}")
    hints = typing.get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        hint = hints[field.name]
        inner = _dataclass_in(hint)
        if inner is not None:
            hint = model_of(inner) if inner is hint else model_of(inner) | None
        if field.default is not dataclasses.MISSING:
            fields[field.name] = (hint, field.default)
        elif field.default_factory is not dataclasses.MISSING:
            fields[field.name] = (hint, pydantic.Field(default_factory=field.default_factory))
        else:
            fields[field.name] = (hint, ...)
    return pydantic.create_model(kind.__name__, __base__=base, **fields)


def build(kind: type, model: Section) -> Any:
    """Return the dataclass made of the values that a model holds.

    Raises:
        ValueError, UserError: Whatever the dataclass itself checks.
    """
    values = {}
    hints = typing.get_type_hints(kind)
    for name in names(kind):
        value = getattr(model, name)
        values[name] = build(_dataclass_in(hints[name]), value) if isinstance(value, Section) else value
    return kind(**values)


def _dataclass_in(hint: Any) -> type | None:
    """Return the dataclass that a hint is, alone or with None beside it, or None where it is neither."""
    options = [option for option in (typing.get_args(hint) or (hint,)) if option is not type(None)]
    return options[0] if len(options) == 1 and dataclasses.is_dataclass(options[0]) else None


def plain(params: Any) -> dict[str, Any]:
    """Return the parameters as dicts, lists and scalars, as YAML and JSON hold them; None as no parameters."""
    if params is None:
        return {}
    return _adapter(type(params)).dump_python(params, mode="json")


@functools.cache
def _adapter(kind: type) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(kind)
