"""A prompt in, a judgement out: does this user like this item? Language models as recommenders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from raydistill.config import Sweep, artifact_identity, data_identity, plain_sweep, wants_hidden
from raydistill.data.items import write_items
from raydistill.data.preference import (
    Candidates,
    Examples,
    Labels,
    PreferenceData,
    Prompt,
    prepare_preference,
    render_preference_statistics,
)
from raydistill.data.preference.tokens import tokenizer_identity
from raydistill.data.splits import SequenceData
from raydistill.data.storage import locked
from raydistill.errors import ConfigError
from raydistill.models import lora, onnx
from raydistill.models.classifier import TextClassifier, build_classifier, classifier_from_pretrained
from raydistill.models.tokenizer import load_tokenizer, padding_note
from raydistill.records import REPORTED_SCORES, SCORES, content_hash, score_metrics, write_scores
from raydistill.training.calibration import CalibrationBatch
from raydistill.training.class_cache import ClassCache, build_class_cache
from raydistill.training.context import RunContext
from raydistill.training.scoring import score_lists, score_lists_by_popularity
from raydistill.training.tasks.base import Columns, Task, Workload
from raydistill.training.tasks.next_item import prepared_sequences, without_weights
from raydistill.training.tasks.refusals import check_classifier, check_metrics, check_tuning
from raydistill.training.tasks.shape import teacher_shape
from raydistill.training.text_dataset import TextDataset

_USE = """\
```python
import torch
from raydistill import TextClassifier
from transformers import AutoTokenizer

model, tokenizer = TextClassifier.from_pretrained("."), AutoTokenizer.from_pretrained(".")
batch = tokenizer(["..."], return_tensors="pt")
probabilities = model.logits(model.hidden(batch["input_ids"], batch["attention_mask"])).softmax(-1)
```

Prompts are made of this template (Jinja2) and have at most {max_tokens} tokens. Where one has more, leave whole entries
out of its history, oldest first, until it fits; a tokenizer that truncates would cut off the candidate.

```
{template}
```"""

STRICT = {"extra": "forbid", "strict": True, "allow_inf_nan": False}


@dataclass(frozen=True)
class Classifier:
    """How a language model becomes a classifier.

    Attributes:
        pooling: What its answer is read from: the ``first`` token, the ``mean`` of all, the ``last`` one, or the
            ``answer``, the first word that an encoder-decoder would write; null is the usual one of the family.
        tokenizer: A folder or a name on the hub; null is the pretrained teacher's own.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    pooling: Literal["first", "mean", "last", "answer"] | None = None
    tokenizer: str | None = None


@dataclass(frozen=True)
class Tuning:
    """Which weights are trained: all of them, or low-rank adapters (LoRA, Hu et al. 2022), merged at the end.

    Attributes:
        teacher, students: ``full`` or ``lora``; controls that start from random weights are always trained in full.
        rank, alpha, dropout: Of the adapters.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    teacher: Literal["full", "lora"] = "full"
    students: Literal["full", "lora"] = "full"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ConfigError("tuning needs rank >= 1, alpha > 0 and dropout in [0, 1)")


@dataclass(frozen=True)
class Sections:
    """The sections of a sweep file that only this task has."""

    prompt: Prompt
    labels: Labels = field(default_factory=Labels)
    candidates: Candidates = field(default_factory=Candidates)
    examples: Examples = field(default_factory=Examples)
    classifier: Classifier = field(default_factory=Classifier)
    tuning: Tuning = field(default_factory=Tuning)


class Preference(Task):
    """The task ``preference``."""

    name = "preference"
    sections = Sections
    claims = ("user_auc", "user_accuracy", "user_log_loss", "ndcg@K", "hr@K", "mrr")
    metrics = ("auc", "pr_auc", "accuracy", "log_loss", "calibration_error", *claims)
    reported = REPORTED_SCORES
    scores = SCORES
    request = "prompt"

    def prepared_data(self, sweep: Sweep, cache: Path) -> PreferenceData:
        own: Sections = sweep.sections
        check_tuning(sweep)
        check_classifier(sweep)
        sequences = prepared_sequences(sweep, cache)
        tokenizer = load_tokenizer(_tokenizer_name(sweep))
        plain = plain_sweep(sweep)
        content = {
            "data": data_identity(sweep),
            "sequences": sequences.hash,
            "max_history": sweep.data.max_length,
            "tokenizer": tokenizer_identity(tokenizer),
        } | {name: plain[name] for name in ("prompt", "labels", "candidates", "examples")}
        identity = artifact_identity("examples", content)
        folder = cache / "prepared" / identity
        with locked(folder):
            data = prepare_preference(
                sequences,
                tokenizer,
                labels=own.labels,
                prompt=own.prompt,
                candidates=own.candidates,
                examples=own.examples,
                max_history=sweep.data.max_length,
                folder=folder,
                identity=identity,
                padding_note=padding_note(tokenizer),
            )
        check_metrics(sweep, data)
        return data

    def folders_of(self, data: PreferenceData) -> list[Path]:
        return [data.folder, data.sequences.folder]

    def open_data(self, folders: Sequence[Path]) -> PreferenceData:
        sequences = SequenceData.load(folders[1], verify=False)
        return PreferenceData.load(folders[0], sequences, verify=False)

    def describe(self, data: PreferenceData) -> list[str]:
        return render_preference_statistics(data)

    def write_items(self, data: PreferenceData, path: Path) -> None:
        write_items(data.sequences, path)

    def protocol(self, sweep: Sweep) -> dict[str, Any]:
        own: Sections = sweep.sections
        labels, examples = own.labels, own.examples
        cuts = "" if sweep.data.split == "leave_one_out" else "-{:g}-{:g}".format(*sweep.data.time_cuts)
        users = "all" if examples.test_users is None else f"{examples.test_users} drawn, seed {examples.seed}"
        return {
            "split": sweep.data.split + cuts,
            "candidates": own.candidates.describe(),
            "labels": labels.kind if labels.kind == "click" else f"{labels.kind}, relevant from {labels.threshold:g}",
            "users": users,
            "history": f"the last {sweep.data.max_length} before the period",
            "prompt": content_hash([own.prompt.template, own.prompt.max_tokens])[:8],
            "ties": "against-the-model",
            "min_interactions": sweep.data.min_interactions,
        }

    def workload(self, sweep: Sweep, data: PreferenceData) -> Workload:
        shape = teacher_shape(sweep)
        train = data.rows("train")
        width = 4 * data.n_classes + (2 * shape.hidden if wants_hidden(sweep) else 0)
        tuning: Tuning = sweep.sections.tuning
        # Two thin maps beside each of a block's: four of hidden x hidden, two of hidden x 4 hidden.
        adapters = 18 * shape.hidden * tuning.rank
        return Workload(
            n_layers=shape.n_layers,
            hidden=shape.hidden,
            classes=data.n_classes,
            examples=len(train),
            positions=int(data.lengths[train].sum()),
            targets=len(train),
            scored=int(data.lengths[data.rows("validation")].sum()),
            table=len(load_tokenizer(_tokenizer_name(sweep))) * shape.hidden,
            block=12 * shape.hidden**2,
            teacher_adapters=adapters if tuning.teacher == "lora" else None,
            student_adapters=adapters if tuning.students == "lora" else None,
            cache_bytes=width * len(train),
            rows=len(data.rows("test")),
        )

    def untrained(self, sweep: Sweep, data: PreferenceData, *, seed: int, layers: int | None = None) -> TextClassifier:
        own: Sections = sweep.sections
        teacher = sweep.teacher
        shared = {
            "n_classes": data.n_classes,
            "class_names": data.class_names,
            "pooling": own.classifier.pooling,
            "max_tokens": own.prompt.max_tokens,
            "seed": seed,
        }
        if teacher.pretrained is not None:
            tokenizer = load_tokenizer(_tokenizer_name(sweep))
            model = classifier_from_pretrained(
                teacher.pretrained, dropout=teacher.dropout, tokenizer=tokenizer, **shared
            )
            return model if layers is None else without_weights(model, layers, seed)
        return build_classifier(
            teacher.family,
            vocab_size=len(load_tokenizer(_tokenizer_name(sweep))),
            pad_id=data.pad_id,
            layers=layers or teacher.layers,
            hidden=teacher.hidden,
            heads=teacher.heads,
            intermediate=teacher.intermediate,
            dropout=0.1 if teacher.dropout is None else teacher.dropout,
            **shared,
            **({} if teacher.initializer_range is None else {"initializer_range": teacher.initializer_range}),
        )

    def load(self, folder: Path) -> TextClassifier:
        return TextClassifier.from_pretrained(folder)

    def adapted(self, sweep: Sweep, model: TextClassifier, *, is_teacher: bool, seed: int) -> TextClassifier:
        tuning: Tuning = sweep.sections.tuning
        if (tuning.teacher if is_teacher else tuning.students) == "full":
            return model
        return lora.with_lora(model, rank=tuning.rank, alpha=tuning.alpha, dropout=tuning.dropout, seed=seed)

    def merged(self, model: TextClassifier) -> TextClassifier:
        return lora.merged(model) if lora.has_adapters(model.backbone) else model

    def dataset(
        self,
        sweep: Sweep,
        data: PreferenceData,
        *,
        causal: bool,
        teacher_seed: int,
        cache: ClassCache | None = None,
    ) -> TextDataset:
        return TextDataset(data, cache)

    def build_cache(
        self, sweep: Sweep, teacher: TextClassifier, dataset: TextDataset, folder: Path, *, context: RunContext
    ) -> None:
        build_class_cache(teacher, dataset.examples, folder, with_hidden=wants_hidden(sweep), context=context)

    def open_cache(self, folder: Path, *, verify: bool = False) -> ClassCache:
        return ClassCache.open(folder, verify=verify)

    def evaluate(
        self,
        model: TextClassifier,
        data: PreferenceData,
        part: str,
        *,
        context: RunContext,
        only: Sequence[str] | None = None,
    ) -> Columns:
        return score_lists(model, data, part, context=context)

    def evaluate_popularity(self, data: PreferenceData, part: str) -> Columns:
        return score_lists_by_popularity(data, part)

    def measured(self, names: list[str], columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        return score_metrics(names, columns)

    def write_scores(self, path: Path, columns: Columns) -> str:
        return write_scores(path, columns)

    def calibration_batch(self, dataset: TextDataset, examples: np.ndarray, replicate: int) -> CalibrationBatch:
        batch = dataset.examples.batch(examples)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        return CalibrationBatch(inputs, batch.example, batch.labels)

    def calibration_logits(self, model: TextClassifier, batch: CalibrationBatch) -> Tensor:
        """Return the class logits of a batch; every text is one target."""
        return model.logits(model.hidden(**batch.inputs))[batch.example]

    def store_teacher(self, sweep: Sweep, model: TextClassifier, folder: Path) -> None:
        # With the tokenizer: its origin may be gone, or another one, by the time that a student is exported.
        model.save_pretrained(folder, load_tokenizer(_tokenizer_name(sweep)))

    def export(self, sweep: Sweep, model: TextClassifier, folder: Path, *, items: Path, teacher: Path) -> None:
        # Older run directories hold teachers without a tokenizer.
        stored = (teacher / "tokenizer.json").is_file()
        model.save_pretrained(folder, load_tokenizer(str(teacher) if stored else _tokenizer_name(sweep)))

    def export_onnx(self, model: TextClassifier, path: Path) -> None:
        """Write a student as ONNX: tokens and their mask in, class logits out."""
        onnx.export_onnx(model, path)

    def card(self, sweep: Sweep, signature: Mapping[str, Any]) -> tuple[str, str]:
        own: Sections = sweep.sections
        use = _USE.format(template=own.prompt.template, max_tokens=own.prompt.max_tokens)
        return f"A classifier of prompts ({own.labels.kind}), that ranks a user's candidates", use

    def serve(self, model: TextClassifier, batch: int, device: torch.device) -> Callable[[], Tensor]:
        """Return a call that judges a batch of prompts of full length."""
        input_ids = torch.full((batch, model.max_tokens), 1, device=device)
        attention_mask = torch.ones_like(input_ids)

        def serve() -> Tensor:
            return model.logits(model.hidden(input_ids, attention_mask))

        return serve


def _tokenizer_name(sweep: Sweep) -> str:
    name = sweep.sections.classifier.tokenizer or sweep.teacher.pretrained
    if name is None:
        raise ConfigError(
            "a teacher that is built from a family has no tokenizer of its own",
            where="classifier.tokenizer",
            mend="name one: a folder with tokenizer.json, or a model on the hub",
        )
    return name


PREFERENCE = Preference()
