"""The model card of a student: what it is made of, how good it is, and under which protocol that was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from raydistill.config import Sweep
from raydistill.records import RECORD, Record, RunDirectory, protocol_signature
from raydistill.training.tasks import task_of

CARD, ITEMS = "README.md", "items.parquet"


def write_student(
    sweep: Sweep, model: nn.Module, record_file: Path, record: Record, run: RunDirectory, output: Path
) -> None:
    """Write a student as a Hugging Face folder with all it needs, its record and a model card.

    Args:
        sweep: The sweep that it comes from.
        model: The student.
        record_file: Its record.
        record: The same, read.
        run: Where it was trained; gives items, signature and teacher.
        output: The folder, made where it is missing.
    """
    task_of(sweep).export(sweep, model, output, items=run.data / ITEMS, teacher=run.teacher(record.teacher))
    if record_file != output / RECORD:
        shutil.copyfile(record_file, output / RECORD)
    (output / CARD).write_text(model_card(sweep, record, run.signature()))


def model_card(sweep: Sweep, record: Record, signature: dict[str, Any]) -> str:
    """Return the text of a student's model card, in Markdown.

    Args:
        sweep: The sweep that it comes from.
        record: Of a confirm trial that succeeded.
        signature: The content of ``signature.json`` of its run.
    """
    what, use = task_of(sweep).card(sweep, signature)
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "tags: [recommendation, knowledge-distillation, layer-pruning]",
            "---",
            "",
            f"# {record.arm}, {record.n_student_layers} of {record.n_teacher_layers} layers",
            "",
            f"{what}, {_origin(record)}.",
            "",
            "## Use",
            "",
            use,
            "",
            "## Measured",
            "",
            *_rows(("metric", "validation", "test"), _quality(record)),
            "",
            "The test set was used once, after every choice had been made.",
            "",
            *_rows(("cost", "value"), _cost(record, task_of(sweep).request)),
            "",
            "## Protocol",
            "",
            f"`{protocol_signature(signature)}`",
            "",
            "## Training",
            "",
            *_rows(("setting", "value"), _training(record)),
            "",
        ]
    )


def _origin(record: Record) -> str:
    """Return what a student is made of; whether it was distilled is a matter of its loss, not of its arm's name."""
    is_distilled = any(record.configuration.get(name) for name in ("alpha_dist", "alpha_hidden"))
    if record.layer_map is None:
        start = "trained from random weights"
        return f"{start}, distilled from the teacher `{record.teacher}`" if is_distilled else start
    layers = ", ".join(map(str, record.layer_map))
    start = f"built from layers {layers} of its teacher `{record.teacher}`"
    return f"{start} and distilled from it" if is_distilled else f"{start} and trained without distillation"


def _quality(record: Record) -> list[tuple[str, ...]]:
    """Return a row a metric; which are defined, as for cold items, may differ between the parts."""
    names = dict.fromkeys((*record.test, *record.validation))
    return [(name, *(_cell(part.get(name)) for part in (record.validation, record.test))) for name in names]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _cost(record: Record, request: str) -> list[tuple[str, ...]]:
    cost = record.cost
    rows = [
        ("parameters", f"{cost['parameters']:,}"),
        ("parameters without embeddings", f"{cost['backbone_parameters']:,}"),
        ("training", f"{cost['training_seconds']:.1f} s"),
        ("evidence", f"{cost['evidence_seconds']:.1f} s"),
    ]
    if "flops" in cost:
        rows.append((f"FLOPs of one {request}", f"{cost['flops']:,}"))
    for batch, latency in cost.get("latency_ms", {}).items():
        rows.append(
            (f"latency, batch {batch}", f"{latency['p50']:.2f} ms median, {latency['p95']:.2f} ms 95th percentile")
        )
    return rows


def _training(record: Record) -> list[tuple[str, ...]]:
    rows = [(name, f"{value:.4g}") for name, value in record.configuration.items() if value is not None]
    return [*rows, ("epochs", str(record.epochs)), ("seed", str(record.seed)), ("record", f"`{record.id}`"),
            ("layer map", json.dumps(record.layer_map))]  # fmt: skip


def _rows(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [header, tuple("---" for _ in header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
