"""Small invented tables, in a module of their own: pydantic finds a dataclass's names by the name of its module, and
several files are called conftest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from raydistill.config import Tables


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
    metrics={
        "next_item": ("ndcg@K", "hr@K", "mrr", "auc"),
        "preference": ("auc", "log_loss", "user_auc", "ndcg@K"),
    },
    claims={"preference": ("user_auc", "ndcg@K")},
)
