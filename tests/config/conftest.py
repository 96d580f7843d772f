"""Small invented tables and a smallest whole sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from raydistill.config import Sweep, Tables, load_sweep


@dataclass(frozen=True)
class InventedParams:
    users: int = 100
    seed: int = 0
    path: Path | None = None


@dataclass(frozen=True)
class FileParams:
    variant: Literal["small", "large"]
    path: str | None = None
    parts: tuple[str, ...] | Literal["all"] = "all"
    columns: tuple[str, ...] = ("user", "item")


@dataclass(frozen=True)
class NoParams:
    pass


@dataclass(frozen=True)
class ScoreParams:
    labels: Literal["model", "data"] = "model"
    choose: Literal["top_k", "stratified"] = "top_k"


@dataclass(frozen=True)
class MixParams:
    weights: Mapping[str, float] = field(default_factory=lambda: {"a": 0.5, "b": 0.5})

    def __post_init__(self) -> None:
        if not sum(self.weights.values()) > 0:
            raise ValueError("one weight must be above zero")


@dataclass(frozen=True)
class DrawnParams:
    draws: int = 5


@dataclass(frozen=True)
class Prompt:
    template: str
    max_tokens: int = 64


@dataclass(frozen=True)
class TextSections:
    prompt: Prompt
    threshold: float = 3.5


TABLES = Tables(
    sources={"invented": InventedParams, "file": FileParams},
    selectors={
        "score": ScoreParams,
        "mix": MixParams,
        "uniform": NoParams,
        "tail": NoParams,
        "random": DrawnParams,
    },
    families=("gpt2", "bert"),
    tasks=("next_item", "preference"),
    sections={"preference": TextSections},
)

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
