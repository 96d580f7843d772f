"""Depth and width of a sweep's teacher, from its configuration alone: no weights are read."""

from __future__ import annotations

from dataclasses import dataclass

from raydistill.config import Sweep
from raydistill.models.checkpoint import read_config
from raydistill.models.families import FAMILIES


@dataclass(frozen=True)
class Shape:
    """Depth, width and direction of a model."""

    n_layers: int
    hidden: int
    causal: bool


def teacher_shape(sweep: Sweep) -> Shape:
    """Return the shape of a sweep's teacher.

    Raises:
        ModelError: The checkpoint's configuration cannot be read, or its architecture is not supported.
    """
    teacher = sweep.teacher
    if teacher.pretrained is None:
        return Shape(teacher.layers, teacher.hidden, FAMILIES[teacher.family].causal)
    family, config = read_config(teacher.pretrained)
    # Layer maps are of the first stack: of an encoder-decoder the encoder.
    return Shape(getattr(config, family.stacks[0].depth_key), config.hidden_size, family.causal)
