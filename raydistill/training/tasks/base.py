"""What a task is: everything that differs between kinds of recommendation, in one place.

Both tasks give logits over classes, so teachers, evidence, search, confirm and analysis are the same code; a task
says where examples come from, what a model of it is, and how its answers are scored.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from raydistill.config import COSTS, Sweep
from raydistill.training.calibration import CalibrationBatch
from raydistill.training.context import RunContext
from raydistill.training.loop import Dataset

Columns = dict[str, np.ndarray]
"""What a model's answers come to, one entry a user or a scored candidate: what is stored of a confirmed trial."""


@dataclass(frozen=True)
class Workload:
    """How much there is to compute, for the estimate before a sweep starts.

    Attributes:
        n_layers, hidden: Shape of the teacher.
        classes: Rows of the output layer.
        examples: Training examples.
        positions: Positions that an epoch of training puts through the blocks.
        targets: Targets of an epoch.
        scored: Positions that one evaluation puts through the blocks.
        table, block: Parameters outside of the teacher's blocks, and of one block.
        teacher_adapters, student_adapters: Parameters of the adapters of a block, where they alone are trained.
        cache_bytes: What the outputs of one teacher take.
        rows: Rows that a confirmed trial stores.
    """

    n_layers: int
    hidden: int
    classes: int
    examples: int
    positions: int
    targets: int
    scored: int
    table: int
    block: int
    cache_bytes: int
    rows: int
    teacher_adapters: int | None = None
    student_adapters: int | None = None


class Task(ABC):
    """One kind of recommendation; has no state, and gets sweep and data with every call.

    Attributes:
        name: What ``task`` in a sweep file calls it.
        sections: Frozen dataclass whose fields are sections that only this task has, or None.
        metrics: Its metrics, ``@K`` standing for every cutoff.
        claims: Those that are means over users, which is what claims are made of.
        reported: Those that every record has, where they are defined.
        scores: Name of the file in a confirmed trial's folder that all its test metrics follow from.
        request: What one pass of a model answers for.
    """

    name: ClassVar[str]
    sections: ClassVar[type | None] = None
    metrics: ClassVar[tuple[str, ...]]
    claims: ClassVar[tuple[str, ...]]
    reported: ClassVar[tuple[str, ...]]
    scores: ClassVar[str]
    request: ClassVar[str] = "user"

    def checkpoints(self, sweep: Sweep) -> dict[str, str]:
        """Return the checkpoints that a teacher starts from, by what the signature calls their content."""
        pretrained = sweep.teacher.pretrained
        return {} if pretrained is None else {"checkpoint": pretrained}

    @abstractmethod
    def prepared_data(self, sweep: Sweep, cache: Path) -> Any:
        """Return the data, split and memory-mapped; prepared in the folder ``cache`` on the first call.

        They have a ``hash`` of their content, ``statistics`` and ``provenance``.

        Raises:
            DataError: A file is missing, malformed, or has too little in it.
        """

    @abstractmethod
    def folders_of(self, data: Any) -> list[Path]:
        """Return the folders that prepared data lie in, for :meth:`open_data`."""

    @abstractmethod
    def open_data(self, folders: Sequence[Path]) -> Any:
        """Return prepared data, memory-mapped; their files were compared with their hashes by who prepared them.

        Raises:
            CorruptArtifactError: A folder is missing, cut off or belongs to other data.
        """

    @abstractmethod
    def describe(self, data: Any) -> list[str]:
        """Return what the data are like, as lines for people."""

    @abstractmethod
    def write_items(self, data: Any, path: Path) -> None:
        """Write the catalogue as Parquet."""

    @abstractmethod
    def protocol(self, sweep: Sweep) -> dict[str, Any]:
        """Return what numbers of this sweep may be compared with: split, candidates, seen items, ties."""

    @abstractmethod
    def workload(self, sweep: Sweep, data: Any) -> Workload:
        """Return how much there is to compute; reads no weights."""

    @abstractmethod
    def untrained(self, sweep: Sweep, data: Any, *, seed: int, layers: int | None = None) -> nn.Module:
        """Return a model to be trained: of the teacher's shape, or shallower and then without pretrained weights.

        Args:
            sweep: The sweep.
            data: What the model is for.
            seed: Seed of the initialization.
            layers: Depth of a control that starts at random; None for the teacher, which may be pretrained.

        Raises:
            ModelError: The checkpoint cannot be used.
        """

    @abstractmethod
    def load(self, folder: Path) -> nn.Module:
        """Return a model that its ``save_pretrained`` wrote, in eval mode."""

    def adapted(self, sweep: Sweep, model: nn.Module, *, is_teacher: bool, seed: int) -> nn.Module:
        """Return the model as it is trained, with adapters, drawn from ``seed``, where the sweep asks for them."""
        return model

    def merged(self, model: nn.Module) -> nn.Module:
        """Return a trained model as a plain one, adapters folded into its weights."""
        return model

    @abstractmethod
    def dataset(self, sweep: Sweep, data: Any, *, causal: bool, teacher_seed: int, cache: Any = None) -> Dataset:
        """Return the training examples; a teacher and its students see the same ones.

        Args:
            sweep: The sweep.
            data: Prepared data.
            causal: Whether the model only looks back.
            teacher_seed: Seed of the teacher.
            cache: The teacher's outputs, or None.
        """

    @abstractmethod
    def build_cache(
        self, sweep: Sweep, teacher: nn.Module, dataset: Dataset, folder: Path, *, context: RunContext
    ) -> None:
        """Run the teacher once over all training examples and write its outputs; every worker calls it."""

    @abstractmethod
    def open_cache(self, folder: Path, *, verify: bool = False) -> Any:
        """Return a teacher's outputs, memory-mapped.

        Raises:
            CorruptArtifactError: They are absent, half written or changed.
        """

    @abstractmethod
    def evaluate(
        self, model: nn.Module, data: Any, part: str, *, context: RunContext, only: Sequence[str] | None = None
    ) -> Columns:
        """Return a model's answers on ``validation`` or ``test``.

        Args:
            model: Set to eval mode.
            data: Prepared data.
            part: ``validation`` or ``test``.
            context: Where this runs; each worker does its share and all return the whole.
            only: Metrics that alone are asked for, from :meth:`metrics_wanted`; None for everything that is stored.

        Raises:
            TrialDivergedError: A score is not finite.
        """

    @abstractmethod
    def evaluate_popularity(self, data: Any, part: str) -> Columns:
        """Return the answers of ranking by popularity."""

    @abstractmethod
    def measured(self, names: list[str], columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the named metrics of a model's answers."""

    def metrics_wanted(self, sweep: Sweep) -> list[str]:
        """Return the names of what every record reports and what the sweep asks for."""
        asked = [name for name in (*sweep.search.objectives, sweep.analysis.metric) if name not in COSTS]
        return list(dict.fromkeys((*self.reported, *asked)))

    def metrics_of(self, sweep: Sweep, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the metrics of :meth:`metrics_wanted` of a model's answers.

        A metric that is defined for none of the users is left out: records hold numbers only. What the search and the
        claim need is looked at as the data are prepared.
        """
        found = self.measured(self.metrics_wanted(sweep), columns)
        return {name: value for name, value in found.items() if math.isfinite(value)}

    @abstractmethod
    def write_scores(self, path: Path, columns: Columns) -> str:
        """Write a model's answers and return the file's SHA-256."""

    @abstractmethod
    def calibration_batch(self, dataset: Dataset, examples: np.ndarray, replicate: int) -> CalibrationBatch:
        """Return some training examples as evidence sees them."""

    @abstractmethod
    def calibration_logits(self, model: nn.Module, batch: CalibrationBatch) -> Tensor:
        """Return the logits of a batch's targets, with gradient."""

    def store_teacher(self, sweep: Sweep, model: nn.Module, folder: Path) -> None:
        """Write a trained teacher as a Hugging Face folder, with what exports of its students take from there."""
        model.save_pretrained(folder)

    @abstractmethod
    def export(self, sweep: Sweep, model: nn.Module, folder: Path, *, items: Path, teacher: Path) -> None:
        """Write a student as a Hugging Face folder, with all that is needed to serve it beside the weights.

        Args:
            sweep: The sweep that it comes from.
            model: The student.
            folder: Made where it is missing.
            items: The catalogue's file in the run directory.
            teacher: Its teacher's folder there.
        """

    @abstractmethod
    def export_onnx(self, model: nn.Module, path: Path) -> None:
        """Write a student as ONNX.

        Raises:
            UserError: What that needs is not installed.
        """

    @abstractmethod
    def card(self, sweep: Sweep, signature: Mapping[str, Any]) -> tuple[str, str]:
        """Return what a student of this task is, as the begin of a sentence, and how to use it, as Markdown."""

    @abstractmethod
    def serve(self, model: nn.Module, batch: int, device: torch.device) -> Callable[[], Tensor]:
        """Return a call that answers for a batch of users of full length, to be timed."""
