"""The sweep file: what may be written in it, how it is read, and what names its artifacts."""

from raydistill.config.expand import Arm, arms, n_student_layers, strata
from raydistill.config.load import dump_sweep, load_sweep, plain_sweep
from raydistill.config.schema import Sweep
from raydistill.config.tables import Tables

__all__ = [
    "Arm",
    "Sweep",
    "Tables",
    "arms",
    "dump_sweep",
    "load_sweep",
    "n_student_layers",
    "plain_sweep",
    "strata",
]
