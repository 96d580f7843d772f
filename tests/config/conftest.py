"""A smallest whole sweep, over the invented tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from invented_tables import TABLES

from raydistill.config import Sweep, Tables, load_sweep

MINIMAL = """\
name: small
task: next_item
data: {source: invented}
teacher: {family: gpt2, layers: 8, hidden: 64, heads: 2, epochs: 30}
selectors: [score, uniform]
controls: [teacher]
training: {epochs: 8, batch_size: 128, lr: 1e-3}
search:
  trials: 12
  space:
    temperature: {log_uniform: [1, 10]}
    keep_ratio: {choice: [0.25, 0.5]}
confirm: {seeds: 5}
analysis: {margin: 0.02}
"""


@pytest.fixture
def tables() -> Tables:
    return TABLES


@pytest.fixture
def minimal() -> str:
    return MINIMAL


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Sweep]:
    """Return a function that loads a sweep from text, by default the smallest one, with overrides."""

    def load_text(*overrides: str, text: str = MINIMAL) -> Sweep:
        file = tmp_path / "sweep.yaml"
        file.write_text(text, encoding="utf-8")
        return load_sweep(file, overrides, tables=TABLES)

    return load_text
