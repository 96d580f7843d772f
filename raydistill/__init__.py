"""Small recommenders built from the important layers of large ones, with evidence.

The names below load on first use, so that ``import raydistill`` needs neither torch nor ray.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "DistillationDataset": "raydistill.training.dataset",
    "DistillationTrainer": "raydistill.training.loop",
    "Recommender": "raydistill.models",
    "RunContext": "raydistill.training.context",
    "TeacherCache": "raydistill.training.teacher_cache",
    "TextClassifier": "raydistill.models",
    "TrainingResult": "raydistill.training.loop",
    "TrainingSettings": "raydistill.training.loop",
    "build_teacher_cache": "raydistill.training.teacher_cache",
    "keep_layers": "raydistill.models",
    "load_sweep": "raydistill.training.build",
    "rank_users": "raydistill.training.evaluation",
    "rank_users_by_popularity": "raydistill.training.evaluation",
    "run_sweep": "raydistill.sweep",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'raydistill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
