"""Training, evidence and teacher outputs: plain PyTorch, usable without Ray."""

from raydistill.training.build import load_sweep
from raydistill.training.context import RunContext
from raydistill.training.dataset import DistillationDataset
from raydistill.training.evaluation import rank_users, rank_users_by_popularity
from raydistill.training.loop import DistillationTrainer, TrainingResult, TrainingSettings
from raydistill.training.teacher_cache import TeacherCache, build_teacher_cache

__all__ = [
    "DistillationDataset",
    "DistillationTrainer",
    "RunContext",
    "TeacherCache",
    "TrainingResult",
    "TrainingSettings",
    "build_teacher_cache",
    "load_sweep",
    "rank_users",
    "rank_users_by_popularity",
]
