"""The training loop: one for the teacher, the students and the controls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from raydistill.errors import TrialDivergedError
from raydistill.losses import LossWeights
from raydistill.records import gain
from raydistill.seeding import stream_seed
from raydistill.training import parallel
from raydistill.training.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from raydistill.training.context import RunContext
from raydistill.training.update import Update

Evaluate = Callable[[nn.Module], dict[str, float]]

_OF_TRAINING = ("epoch", "loss", "task_loss", "distillation_loss", "seconds", "targets_per_second")
"""Numbers of an epoch that are no validation metrics."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained; the same for every arm of a sweep.

    Attributes:
        epochs: Passes over the training examples.
        epoch_examples: Examples of a pass, in whole steps, drawn anew each time; None for all.
        batch_size: Examples in an optimizer step, over all workers.
        lr: Peak learning rate of AdamW.
        weight_decay: Of matrices and embeddings; biases and norms have none.
        warmup: Share of the steps in which the learning rate rises linearly.
        schedule: ``cosine`` (down to zero) or ``constant``, after the warm-up.
        clip: Largest norm of the gradient; 0 for no limit.
        groups: Most length groups that a step is split into.
        gradient_accumulation: Equal parts that a step is run in, one after the other, where memory is short.
        gradient_checkpointing: Recompute activations in the backward pass, where memory is short.
        precision: ``float32`` or ``bfloat16`` (autocast; weights and sums stay float32).
        patience: Epochs without a better validation metric before training ends; None for all epochs.
        metric: Validation metric that decides which epoch is kept.
        seed: Of data order and dropout.
    """

    epochs: int = 8
    epoch_examples: int | None = None
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    schedule: str = "cosine"
    clip: float = 1.0
    groups: int = 5
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    precision: str = "float32"
    patience: int | None = None
    metric: str = "ndcg@10"
    seed: int = 0


@dataclass
class TrainingResult:
    """What a training run came to.

    Attributes:
        curves: One row an epoch.
        best_epoch: 1-based epoch whose weights the model now has.
        validation: Metrics of that epoch.
        training_seconds, evaluation_seconds: Wall time inside and outside the optimizer steps.
    """

    curves: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    training_seconds: float = 0.0
    evaluation_seconds: float = 0.0


class Dataset(Protocol):
    """Training examples in steps, and the loss that belongs to them; both tasks have one."""

    examples: Any
    cache: Any

    def steps(self, epoch: int, **arguments: int) -> Iterator[tuple[list[list[Any]], int]]:
        """Yield the length groups of each part, and the number of targets, of every step of an epoch."""

    def to(self, group: Any, device: torch.device) -> Any:
        """Return a length group on a device."""

    def objective(self, model: nn.Module, weights: LossWeights, device: torch.device) -> nn.Module:
        """Return the module whose ``forward(groups, normalizer)`` gives total, task and distillation loss."""


class DistillationTrainer:
    """Trains a model by the distillation objective, epoch by epoch.

    With ``LossWeights`` that need no teacher it is the ordinary training loop: the teacher itself and the
    controls are trained by it too.

    Args:
        model: Trained in place; at the end it has the weights of its best epoch.
        dataset: Training examples, with the teacher's cached outputs where ``weights`` needs them.
        weights: Temperature and alphas.
        settings: How to train.
        evaluate: Gives the validation metrics of the model; None keeps the last epoch.
        context: Where this runs.

    Raises:
        ValueError: The weights need a teacher and the dataset has no cache.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        weights: LossWeights,
        settings: TrainingSettings | None = None,
        *,
        evaluate: Evaluate | None = None,
        context: RunContext | None = None,
    ) -> None:
        if weights.needs_teacher and dataset.cache is None:
            raise ValueError(
                "these weights need a teacher: give the dataset its cache, or alpha_dist = alpha_hidden = 0"
            )
        self.settings = settings = settings or TrainingSettings()
        self.context = context = context or RunContext()
        self.model = model
        # The one that is trained: the model itself, or a copy of which each worker holds a share.
        self.trained = parallel.place(model, context)
        self.dataset = dataset
        self.evaluate = evaluate
        if settings.gradient_checkpointing:
            _checkpoint_activations(self.trained.backbone)
        self.objective: nn.Module = dataset.objective(self.trained, weights, context.device)
        self.steps_in_epoch = dataset.examples.steps_in_epoch(settings.batch_size)
        if settings.epoch_examples is not None:
            self.steps_in_epoch = min(self.steps_in_epoch, -(-settings.epoch_examples // settings.batch_size))
        n_steps = settings.epochs * self.steps_in_epoch
        self.update = Update(self.objective, dataset, settings, context, n_steps=n_steps)
        self.result = TrainingResult()
        self._best: dict[str, Tensor] = {}

    def fit(self) -> TrainingResult:
        """Train to the end and return the result; the model has the weights of its best epoch."""
        for _row in self.epochs():
            pass
        return self.result

    def epochs(self) -> Iterator[dict[str, Any]]:
        """Train, yielding the numbers of each epoch as it ends.

        Raises:
            TrialDivergedError: The loss is no longer finite.
        """
        self.resume()
        while len(self.result.curves) < self.settings.epochs and not self._out_of_patience():
            row = self._epoch(len(self.result.curves))
            self.result.curves.append(row)
            self._keep_best(row)
            self._report(row)
            yield row
        self.restore_best()

    def restore_best(self) -> None:
        """Give the model the weights of its best epoch so far."""
        best = parallel.whole(self._best)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in best:
                    parameter.copy_(best[name])
        self.model.to(self.context.device)

    def _epoch(self, epoch: int) -> dict[str, Any]:
        settings, context = self.settings, self.context
        started = time.perf_counter()
        self.trained.train()
        sums = torch.zeros(3, dtype=torch.float64, device=context.device)
        n_targets = 0
        with _own_dropout(settings.seed, epoch, context):
            steps = self.dataset.steps(
                epoch,
                batch_size=settings.batch_size,
                seed=settings.seed,
                groups=self.update.most_groups,
                overhead=self.update.group_overhead,
                parts=settings.gradient_accumulation,
                rank=context.rank,
                world_size=context.world_size,
            )
            for number, (parts, targets) in enumerate(islice(steps, self.steps_in_epoch)):
                sums += targets * self.update(parts, targets, epoch * self.steps_in_epoch + number)
                n_targets += targets
                # On a GPU, or of all workers, to know would mean to wait in every step; there the epoch's end tells.
                if context.world_size == 1 and context.device.type == "cpu" and not sums[0].isfinite():
                    break
        self.update.optimizer.zero_grad(set_to_none=True)  # evaluation and checkpoint need the room
        loss, task, distillation = (value / n_targets for value in context.sum(sums.tolist()))
        if not math.isfinite(loss):
            raise TrialDivergedError(
                f"the loss is {loss} in epoch {epoch + 1}",
                mend="a lower learning rate, or training.clip, usually helps",
            )
        training_seconds = time.perf_counter() - started
        with parallel.callable_alone(self.update.wrapped):
            metrics = {} if self.evaluate is None else self.evaluate(self.trained)
        evaluation_seconds = time.perf_counter() - started - training_seconds
        self.result.training_seconds += training_seconds
        self.result.evaluation_seconds += evaluation_seconds
        return {
            "epoch": epoch + 1,
            "loss": loss,
            "task_loss": task,
            "distillation_loss": distillation,
            **metrics,
            "seconds": training_seconds,
            "targets_per_second": n_targets / training_seconds,
        }

    def _keep_best(self, row: dict[str, Any]) -> None:
        metric = self.settings.metric
        kept = self.result.validation
        best = gain(metric, kept[metric]) if metric in kept else -math.inf
        if metric in row and not gain(metric, row[metric]) > best:
            return
        self.result.best_epoch = row["epoch"]
        self.result.validation = {name: value for name, value in row.items() if name not in _OF_TRAINING}
        with torch.no_grad():
            for name, value in self._trainable():
                if name in self._best:  # in place: two copies of all weights at a time would be one too many
                    self._best[name].copy_(value)
                else:
                    self._best[name] = value.detach().clone()

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what training changes: everything, or the adapters and the head."""
        return ((name, value) for name, value in self.trained.named_parameters() if value.requires_grad)

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and len(self.result.curves) - self.result.best_epoch >= patience

    def _report(self, row: dict[str, Any]) -> None:
        folder = self.context.checkpoint_folder
        if folder is not None:
            tensors = {f"model.{name}": value for name, value in self._trainable()}
            tensors |= {f"best.{name}": value for name, value in self._best.items()}
            tensors = parallel.whole(tensors | optimizer_tensors(self.update.optimizer), kept=self.context.is_first)
            if self.context.is_first:
                save_checkpoint(folder, tensors, vars(self.result))
        self.context.report(row, folder)

    def resume(self) -> None:
        """Put back weights, optimizer and ``result`` of the context's checkpoint; once, and before any epoch."""
        if self.context.resume_from is None or self.result.curves:
            return
        tensors, state = load_checkpoint(self.context.resume_from)
        parameters = dict(self._trainable())
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(parallel.share_of(tensors[f"model.{name}"], parameter))
        restore_optimizer(self.update.optimizer, tensors, share_of=parallel.share_of)
        self._best = {
            name: parallel.share_of(tensors[f"best.{name}"], parameter)
            for name, parameter in parameters.items()
            if f"best.{name}" in tensors
        }
        self.result = TrainingResult(**state)


def _checkpoint_activations(backbone: nn.Module) -> None:
    """Recompute activations in the backward pass; transformers renamed the switch in a minor release."""
    enable = getattr(backbone, "activation_checkpointing_enable", None) or backbone.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@contextmanager
def _own_dropout(seed: int, epoch: int, context: RunContext) -> Iterator[None]:
    """Let dropout follow the seed, epoch and worker, so that a resumed run draws what an unbroken one would have."""
    with torch.random.fork_rng(devices=[context.device] if context.device.type == "cuda" else []):
        torch.manual_seed(stream_seed(seed, "dropout", epoch, context.rank))
        yield
