"""Overrides from the command line: ``--set search.trials=4``."""

from __future__ import annotations

import dataclasses
from typing import Any

from raydistill.config.mistakes import Mistake, Origin, dotted
from raydistill.config.tree import Tree, read_tree


def apply_override(tree: Tree, override: str) -> None:
    """Put the value of one override into the tree; what is wrong with it is noted there.

    Args:
        tree: Changed in place.
        override: ``KEY=VALUE``: dotted keys and list positions, and a value in YAML.
    """
    origin = Origin(f"--set {override}")
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        rule = "an override is KEY=VALUE, as in --set search.trials=4"
        tree.mistakes.append(Mistake((), rule, override, origin=origin))
        return
    path: tuple[str | int, ...] = ()
    around = tree.value
    for part in parts[:-1]:
        step = _step(around, part)
        if step is None:
            break
        path = (*path, step)
        if isinstance(around, dict) and around.get(step) is None:
            tree.place(path, Tree({}, {(): origin}))
        around = around[step]
    else:
        step = _step(around, parts[-1])
        if step is not None:
            path = (*path, step)
            value = read_tree(text, origin.source, lines=False)
            if value.mistakes:
                tree.mistakes += [dataclasses.replace(entry.below(path), origin=origin) for entry in value.mistakes]
            else:
                tree.place(path, value)
            return
    tree.mistakes.append(Mistake(path, _no_step(around, parts[len(path)], path), origin=origin))


def _step(around: Any, part: str) -> str | int | None:
    if isinstance(around, dict):
        return part
    if isinstance(around, list) and part.isdecimal() and int(part) < len(around):
        return int(part)
    return None


def _no_step(around: Any, part: str, path: tuple[str | int, ...]) -> str:
    if isinstance(around, list):
        return f"'{part}' is no position of the list {dotted(path)}: 0 to {len(around) - 1} are"
    return f"{dotted(path)} is one value and holds no '{part}'"
