"""The sweep file: what may be written in it, how it is read, and what names its artifacts."""

from raydistill.config.expand import Arm, arms, n_student_layers, quality_metric, strata, wants_hidden
from raydistill.config.identity import (
    ARTIFACT_VERSION,
    artifact_identity,
    cache_identity,
    data_identity,
    evidence_identity,
    sweep_identity,
    teacher_identity,
    trial_identity,
)
from raydistill.config.load import dump_sweep, load_sweep, plain_sweep
from raydistill.config.schema import COSTS, Execution, Sweep
from raydistill.config.tables import Tables

__all__ = [
    "ARTIFACT_VERSION",
    "COSTS",
    "Arm",
    "Execution",
    "Sweep",
    "Tables",
    "arms",
    "artifact_identity",
    "cache_identity",
    "data_identity",
    "dump_sweep",
    "evidence_identity",
    "load_sweep",
    "n_student_layers",
    "plain_sweep",
    "quality_metric",
    "strata",
    "sweep_identity",
    "teacher_identity",
    "trial_identity",
    "wants_hidden",
]
