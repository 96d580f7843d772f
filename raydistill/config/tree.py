"""YAML text as a plain tree in which every value knows where it was written."""

from __future__ import annotations

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
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"'*{event.anchor}' refers to another place; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(~|null|Null|NULL|)\Z"), None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+\Z"), None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_NUMBER.pattern + r"\Z"), None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"), None)

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
        """Put the root of another tree at ``path``, whose parent exists; old origins below it are forgotten."""
        self.origins = {known: origin for known, origin in self.origins.items() if known[: len(path)] != path}
        self.origins.update({path + below: origin for below, origin in tree.origins.items()})
        self.mistakes += [mistake.below(path) for mistake in tree.mistakes]
        if path:
            self.get(path[:-1])[path[-1]] = tree.value
        else:
            self.value = tree.value


def read_tree(text: str, source: str, *, lines: bool = True) -> Tree:
    """Return the tree of one YAML document.

    Args:
        text: The document.
        source: File name, or the whole override, for messages.
        lines: Whether line numbers in the text mean something to its writer.
    """
    tree = Tree()
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None and lines else None
        problem = getattr(error, "problem", None) or str(error)
        tree.origins[()] = Origin(source, line)
        tree.mistakes.append(Mistake((), f"this is not YAML: {problem}"))
        return tree
    finally:
        loader.dispose()

    def build(node: yaml.Node | None, path: Path, line: int) -> Any:
        tree.origins[path] = Origin(source, line if lines else None)
        if node is None:
            return None
        if isinstance(node, yaml.MappingNode):
            return {key: build(child, (*path, key), at) for key, child, at in _entries(node, path, tree)}
        if isinstance(node, yaml.SequenceNode):
            return [build(child, (*path, index), child.start_mark.line + 1) for index, child in enumerate(node.value)]
        if node.tag not in _SCALARS:
            tree.mistakes.append(Mistake(path, f"the tag {node.tag} is not read; write a plain value", node.value))
            return None
        return _SCALARS[node.tag](node.value)

    tree.value = build(node, (), 1)
    return tree


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
            tree.mistakes.append(
                Mistake((*path, key), rule, child.value, origin=Origin(tree.origins[path].source, line))
            )
            continue
        first[key] = line
        yield key, child, line
