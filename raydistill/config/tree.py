"""YAML text as a plain tree in which every value knows where it was written."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from raydistill.config.mistakes import ABSENT, Mistake, Origin

Path = tuple[str | int, ...]

_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class _Loader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 does: ``1e-3`` is a number, ``no`` and ``2020-01-01`` are text."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - the base class's name; its YAML 1.1 rules are dropped

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refused(event, f"'*{event.anchor}' refers to another place; write the value out")
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            raise _refused(event, f"'&{event.anchor}' names a place; only plain values are read")
        if getattr(event, "tag", None) not in (None, "!"):
            raise _refused(event, f"the tag '{event.tag}' is not read; only plain values are")
        return super().compose_node(parent, index)


class _RefusedError(yaml.MarkedYAMLError):
    """YAML, but of a kind that a sweep file has no use for."""


def _refused(event: yaml.NodeEvent, problem: str) -> _RefusedError:
    return _RefusedError(problem=problem, problem_mark=event.start_mark)


class Dumper(yaml.SafeDumper):
    """Writes text so that it is read back as text by the rules of this module."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - as above


_RULES = {
    "null": r"(~|null|Null|NULL|)\Z",
    "bool": r"(true|True|TRUE|false|False|FALSE)\Z",
    "int": r"[-+]?[0-9]+\Z",
    "float": _NUMBER.pattern + r"\Z|([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z",
}
for _name, _rule in _RULES.items():
    for _class in (_Loader, Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_rule), None)

_SCALARS = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": lambda text: float(text if _NUMBER.fullmatch(text) else text.replace(".", "")),
    "tag:yaml.org,2002:str": str,
}


@dataclass
class Tree:
    """Values as dicts, lists and scalars, where each was written, and what was wrong already.

    Attributes:
        value: The root.
        origins: Where the value at each path was written.
        mistakes: Duplicate keys and the like, found while reading.
    """

    value: Any = None
    origins: dict[Path, Origin] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def origin(self, path: Path) -> Origin:
        """Return where ``path`` was written, or the nearest value around it that was written."""
        while path not in self.origins:
            path = path[:-1]
        return self.origins[path]

    def get(self, path: Path) -> Any:
        """Return the value at ``path``, or ``ABSENT``."""
        value = self.value
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return ABSENT
        return value

    def place(self, path: Path, tree: Tree) -> None:
        """Put the root of another tree at ``path``, below a parent that exists; what was there is forgotten."""
        self.origins = {known: origin for known, origin in self.origins.items() if known[: len(path)] != path}
        self.origins.update({path + below: origin for below, origin in tree.origins.items()})
        self.get(path[:-1])[path[-1]] = tree.value


def read_tree(text: str, source: str, *, lines: bool = True) -> Tree:
    """Return the tree of one YAML document.

    Args:
        text: The document.
        source: File name, or the whole override, for messages.
        lines: Whether line numbers in the text mean something to its writer.
    """
    tree = Tree(origins={(): Origin(source, 1 if lines else None)})
    try:
        node = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        tree.origins[()] = Origin(source, _line(error, text) if lines else None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        tree.mistakes.append(
            Mistake((), problem if isinstance(error, _RefusedError) else f"this is not YAML: {problem}")
        )
        return tree
    except RecursionError:
        tree.mistakes.append(Mistake((), "lists and mappings are nested too deeply"))
        return tree

    def build(node: yaml.Node | None, path: Path, line: int) -> Any:
        tree.origins[path] = Origin(source, line if lines else None)
        if node is None:
            return None
        if isinstance(node, yaml.MappingNode):
            return {key: build(child, (*path, key), at) for key, child, at in _entries(node, path, tree)}
        if isinstance(node, yaml.SequenceNode):
            return [build(child, (*path, index), child.start_mark.line + 1) for index, child in enumerate(node.value)]
        try:
            return _SCALARS[node.tag](node.value)
        except ValueError:  # Python reads whole numbers of up to 4300 digits
            tree.mistakes.append(Mistake(path, "a number this long cannot be read", node.value))
            return None

    tree.value = build(node, (), 1)
    return tree


def _line(error: yaml.YAMLError, text: str) -> int:
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark is not None else text.count("\n", 0, getattr(error, "position", 0) or 0) + 1


def _entries(node: yaml.MappingNode, path: Path, tree: Tree) -> Iterator[tuple[str, yaml.Node, int]]:
    first: dict[str, int] = {}
    for key_node, child in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            tree.mistakes.append(Mistake(path, "a key must be text, not a list or a mapping"))
            continue
        key = key_node.value
        if key in first:
            rule = f"the key is given twice, first in line {first[key]}; keep one"
            given = child.value if isinstance(child, yaml.ScalarNode) else ABSENT
            origin = dataclasses.replace(tree.origins[path], line=line if tree.origins[path].line else None)
            tree.mistakes.append(Mistake((*path, key), rule, given, origin=origin))
            continue
        first[key] = line
        yield key, child, line
