"""Mistakes in a sweep: collected all at once, each with its place, its rule and what would be right."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from raydistill.errors import ConfigError

_WIDTH = 100


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()
"""Stands for a value that was not written at all."""


@dataclass(frozen=True)
class Origin:
    """Where a value was written: a file and line, or an override."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong.

    Attributes:
        path: Keys and list positions from the root; ``()`` for the whole file.
        rule: What holds instead, without the key's name.
        given: The value as written, or ``ABSENT``.
        allowed: Every value or key that would do, where they can be listed.
        origin: Where it was written; found from the path where None.
    """

    path: tuple[str | int, ...]
    rule: str
    given: Any = ABSENT
    allowed: tuple[str, ...] = ()
    origin: Origin | None = None

    def below(self, path: tuple[str | int, ...]) -> Mistake:
        """Return the same mistake with ``path`` in front of its own."""
        return dataclasses.replace(self, path=path + self.path)

    @property
    def closest(self) -> str | None:
        """The allowed value nearest to what was written: the value, or the key where the key is wrong."""
        written = str(self.path[-1]) if self.rule == NO_SUCH_KEY else self.given
        if not isinstance(written, str):
            return None
        matches = difflib.get_close_matches(written.lower(), self.allowed, n=1, cutoff=0.6)
        return matches[0] if matches else None

    def lines(self) -> list[str]:
        """Return the mistake as aligned lines, the key path first."""
        entries = [("where", str(self.origin))]
        if self.given is not ABSENT:
            entries.append(("given", shown(self.given)))
        entries.append(("rule", self.rule))
        if self.allowed:
            entries.append(("allowed", ", ".join(self.allowed)))
        if self.closest:
            entries.append(("closest", self.closest))
        lines = [dotted(self.path) or ("the override" if str(self.origin).startswith("--set") else "the whole file")]
        for label, text in entries:
            first, *rest = _wrap(text, _WIDTH - 13)
            lines.append(f"  {label + ':':<9}{first}")
            lines += [" " * 11 + more for more in rest]
        return lines


NO_SUCH_KEY = "no such key"


def dotted(path: Sequence[str | int]) -> str:
    """Return a key path as ``--set`` takes it, such as ``search.space.keep_ratio.choice.0``."""
    return ".".join(str(part) for part in path)


def shown(value: Any) -> str:
    """Return a value as YAML would have it on one line, shortened where it is long."""
    text = value if isinstance(value, str) and value.strip() == value != "" else json.dumps(value, default=str)
    return text if len(text) <= 70 else text[:67] + "..."


def refuse(mistakes: Iterable[Mistake], source: str) -> None:
    """Raise one ``ConfigError`` that names every mistake, in the order of the file; none is no error."""
    known = sorted(mistakes, key=lambda mistake: (mistake.origin.line is None, mistake.origin.line or 0))
    if not known:
        return
    count = "1 mistake" if len(known) == 1 else f"{len(known)} mistakes"
    blocks = ["\n".join("  " + line for line in mistake.lines()) for mistake in known]
    raise ConfigError(f"{count} in {source}\n\n" + "\n\n".join(blocks))


def from_pydantic(error: dict[str, Any], path: tuple[str | int, ...], keys: Sequence[str]) -> Mistake:
    """Return one error of pydantic in the words of this package.

    Args:
        error: An entry of ``ValidationError.errors()``.
        path: Where the value lies in the sweep.
        keys: The keys that are known around the place of the error.
    """
    kind, context = error["type"], error.get("ctx", {})
    where = (*path, *context.get("at", ()))
    allowed: tuple[str, ...] = ()
    if kind == "extra_forbidden":
        allowed = tuple(sorted(keys))
    elif kind == "literal_error":
        allowed = tuple(re.findall(r"'([^']*)'", context["expected"])) or (context["expected"],)
    elif "allowed" in context:
        allowed = tuple(context["allowed"])
    rule = _RULES[kind].format(**context) if kind in _RULES else context.get("rule", error["msg"])
    if kind == "value_error":
        rule = str(context["error"])
    return Mistake(where, rule, allowed=allowed)


def either(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """Return the mistakes with those of one place joined: each is a branch that the value might have taken.

    Where a branch was taken and something inside it is wrong, only that is kept.
    """
    joined: dict[tuple[str | int, ...], Mistake] = {}
    for mistake in mistakes:
        before = joined.get(mistake.path)
        if before is not None:
            rule = before.rule if before.rule == mistake.rule else f"{before.rule}, or {mistake.rule}"
            mistake = dataclasses.replace(mistake, rule=rule, allowed=(*before.allowed, *mistake.allowed))
        joined[mistake.path] = mistake
    inner = {path[:end] for path in joined for end in range(len(path))}
    return [mistake for path, mistake in joined.items() if path not in inner]


_RULES = {
    "missing": "required, but not given",
    "extra_forbidden": NO_SUCH_KEY,
    "literal_error": "must be one of the allowed values",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
}


def _wrap(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
