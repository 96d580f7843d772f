"""Item sequences in, the next item out: a softmax over the whole catalogue, ranked without sampling."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydistill.config import Sweep, data_identity, quality_metric
from raydistill.data.items import write_items
from raydistill.data.preparation import prepare
from raydistill.data.sources import SOURCES
from raydistill.data.splits import SequenceData
from raydistill.data.statistics import render_statistics
from raydistill.data.storage import locked
from raydistill.errors import ModelError
from raydistill.metrics import REPORTED, mean_metrics
from raydistill.models import onnx
from raydistill.models.recommender import Recommender, build_recommender, recommender_from_pretrained
from raydistill.records import RANKS, write_ranks
from raydistill.training.calibration import CalibrationBatch
from raydistill.training.context import RunContext
from raydistill.training.dataset import DistillationDataset
from raydistill.training.evaluation import rank_users, rank_users_by_popularity
from raydistill.training.tasks.base import Columns, Task, Workload
from raydistill.training.tasks.item_text import ItemText, title_embeddings
from raydistill.training.tasks.shape import teacher_shape
from raydistill.training.teacher_cache import TeacherCache, build_teacher_cache

_USE = """\
```python
import torch
from raydistill import Recommender

model = Recommender.from_pretrained(".")
ids = [3, 14, 15]  # the history, as ids of items.parquet, oldest first
if not model.causal:
    ids.append(model.mask_item)  # where a bidirectional model answers
ids = torch.tensor([ids[-model.max_length :]])
scores = model.logits(model.hidden(ids)[:, -1])  # column c scores item c + 1
```"""


@dataclass(frozen=True)
class Sections:
    """The sections of a sweep file that only this task has."""

    item_text: ItemText | None = None


class NextItem(Task):
    """The task ``next_item``."""

    name = "next_item"
    sections = Sections
    metrics = ("ndcg@K", "hr@K", "mrr", "auc")
    claims = metrics
    reported = REPORTED
    scores = RANKS

    def checkpoints(self, sweep: Sweep) -> dict[str, str]:
        text: ItemText | None = sweep.sections.item_text
        return super().checkpoints(sweep) | ({} if text is None else {"item_text_checkpoint": text.encoder})

    def prepared_data(self, sweep: Sweep, cache: Path) -> SequenceData:
        return prepared_sequences(sweep, cache)

    def folders_of(self, data: SequenceData) -> list[Path]:
        return [data.folder]

    def open_data(self, folders: Sequence[Path]) -> SequenceData:
        return SequenceData.load(folders[0], verify=False)

    def describe(self, data: SequenceData) -> list[str]:
        return render_statistics(data)

    def write_items(self, data: SequenceData, path: Path) -> None:
        write_items(data, path)

    def protocol(self, sweep: Sweep) -> dict[str, Any]:
        return {
            "split": sweep.data.split,
            "candidates": "full-catalogue",
            "seen": "masked",
            "ties": "against-the-model",
            "max_length": sweep.data.max_length,
            "min_interactions": sweep.data.min_interactions,
        }

    def workload(self, sweep: Sweep, data: SequenceData) -> Workload:
        shape = teacher_shape(sweep)
        examples = self.dataset(sweep, data, causal=shape.causal, teacher_seed=sweep.teacher.seed).examples
        evaluated = np.minimum(np.diff(data.offsets), sweep.data.max_length).sum()
        return Workload(
            n_layers=shape.n_layers,
            hidden=shape.hidden,
            classes=data.n_items,
            examples=len(examples),
            positions=int(examples.lengths.sum()),
            targets=examples.n_slots // examples.n_patterns,
            scored=int(evaluated),
            table=data.n_items * shape.hidden,
            block=12 * shape.hidden**2,
            cache_bytes=2 * examples.n_slots * shape.hidden,
            rows=data.n_users,
        )

    def untrained(self, sweep: Sweep, data: SequenceData, *, seed: int, layers: int | None = None) -> Recommender:
        model = self._without_texts(sweep, data, seed=seed, layers=layers)
        text: ItemText | None = sweep.sections.item_text
        if text is None:
            return model
        return model.with_item_text(title_embeddings(data, text), text.projection, seed)

    def _without_texts(self, sweep: Sweep, data: SequenceData, *, seed: int, layers: int | None) -> Recommender:
        teacher = sweep.teacher
        if teacher.pretrained is not None:
            model = recommender_from_pretrained(
                teacher.pretrained,
                n_items=data.n_items,
                max_length=sweep.data.max_length,
                seed=seed,
                dropout=teacher.dropout,
            )
            return model if layers is None else without_weights(model, layers, seed)
        return build_recommender(
            teacher.family,
            n_items=data.n_items,
            layers=layers or teacher.layers,
            hidden=teacher.hidden,
            heads=teacher.heads,
            intermediate=teacher.intermediate,
            dropout=0.1 if teacher.dropout is None else teacher.dropout,
            max_length=sweep.data.max_length,
            seed=seed,
            **({} if teacher.initializer_range is None else {"initializer_range": teacher.initializer_range}),
        )

    def load(self, folder: Path) -> Recommender:
        return Recommender.from_pretrained(folder)

    def dataset(
        self,
        sweep: Sweep,
        data: SequenceData,
        *,
        causal: bool,
        teacher_seed: int,
        cache: TeacherCache | None = None,
    ) -> DistillationDataset:
        return DistillationDataset(
            data,
            max_length=sweep.data.max_length,
            causal=causal,
            cache=cache,
            mask_probability=sweep.training.mask_probability,
            mask_patterns=sweep.training.mask_patterns,
            seed=teacher_seed,
        )

    def build_cache(
        self, sweep: Sweep, teacher: Recommender, dataset: DistillationDataset, folder: Path, *, context: RunContext
    ) -> None:
        build_teacher_cache(teacher, dataset.examples, folder, context=context)

    def open_cache(self, folder: Path, *, verify: bool = False) -> TeacherCache:
        return TeacherCache.open(folder, verify=verify)

    def evaluate(
        self,
        model: Recommender,
        data: SequenceData,
        part: str,
        *,
        context: RunContext,
        only: Sequence[str] | None = None,
    ) -> Columns:
        is_all = only is None
        return rank_users(model, data, part, context=context, top=is_all, candidates=is_all or "auc" in only)

    def evaluate_popularity(self, data: SequenceData, part: str) -> Columns:
        return rank_users_by_popularity(data, part)

    def measured(self, names: list[str], columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        return mean_metrics(columns["rank"], names, columns.get("candidates"))

    def metrics_of(self, sweep: Sweep, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return what every record reports; with ``item_text`` also the metric that decides for warm and cold items.

        An item is cold where training has never seen it: without texts, its row of the table is a random one.
        """
        found = super().metrics_of(sweep, columns)
        if sweep.sections.item_text is not None:
            cold = columns["target_popularity"] == 0
            for name, chosen in (("warm", ~cold), ("cold", cold)):
                if chosen.any():
                    own = {column: columns[column][chosen] for column in ("rank", "candidates") if column in columns}
                    metric = quality_metric(sweep)
                    found[f"{name}_{metric}"] = self.measured([metric], own)[metric]
        return found

    def write_scores(self, path: Path, columns: Columns) -> str:
        return write_ranks(path, columns)

    def calibration_batch(self, dataset: DistillationDataset, examples: np.ndarray, replicate: int) -> CalibrationBatch:
        batch = dataset.examples.batch(examples, replicate % dataset.examples.n_patterns)
        is_target = torch.zeros(batch.input_ids.shape, dtype=torch.bool)
        is_target.view(-1)[batch.positions] = True
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "is_target": is_target}
        if batch.attention_mask is not None:
            inputs["attention_mask"] = batch.attention_mask
        return CalibrationBatch(inputs, batch.example, batch.labels)

    def calibration_logits(self, model: Recommender, batch: CalibrationBatch) -> Tensor:
        """Return the scores of all items at the target positions of a batch."""
        inputs = dict(batch.inputs)
        is_target = inputs.pop("is_target")
        return model.logits(model.hidden(**inputs)[is_target])

    def export(self, sweep: Sweep, model: Recommender, folder: Path, *, items: Path, teacher: Path) -> None:
        model.save_pretrained(folder)
        shutil.copyfile(items, folder / items.name)

    def export_onnx(self, model: Recommender, path: Path) -> None:
        """Write a student as ONNX: histories in, scores of all items out."""
        onnx.export_onnx(model, path)

    def card(self, sweep: Sweep, signature: Mapping[str, Any]) -> tuple[str, str]:
        return f"A sequential recommender over {signature['data']['statistics']['items']:,} items", _USE

    def serve(self, model: Recommender, batch: int, device: torch.device) -> Callable[[], Tensor]:
        """Return a call that scores all items for a batch of histories of full length."""
        input_ids = torch.full((batch, model.max_length), 1, device=device)

        def serve() -> Tensor:
            return model.logits(model.hidden(input_ids)[:, -1])

        return serve


def prepared_sequences(sweep: Sweep, cache: Path) -> SequenceData:
    """Return the sweep's item sequences, split and memory-mapped; both tasks begin with them.

    Args:
        sweep: The sweep.
        cache: Folder for raw and prepared data, shared by all sweeps of one storage place.

    Raises:
        DataError: A file is missing, malformed, or has too little in it.
    """
    settings = sweep.data
    raw = SOURCES[settings.source].load(settings.params, cache / "raw")
    folder = cache / "prepared" / data_identity(sweep)
    with locked(folder):
        return prepare(
            raw,
            split=settings.split,
            min_interactions=settings.min_interactions,
            folder=folder,
            duplicates=settings.duplicates,
            min_rating=settings.min_rating,
            time_cuts=settings.time_cuts,
        )


def without_weights(model: Any, layers: int, seed: int) -> Any:
    """Return a model of a checkpoint's shape and some depth, as if it had never been pretrained.

    Raises:
        ModelError: The checkpoint is not that deep.
    """
    if layers > model.n_layers:
        raise ModelError(f"a control of {layers} layers is deeper than the teacher's {model.n_layers}")
    return model.keep_layers(list(range(layers))).reinitialized(seed)


NEXT_ITEM = NextItem()
