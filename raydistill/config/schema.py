"""The sections of a sweep file: keys, types, ranges and defaults.

Pydantic lives at this edge only. Everything behind it takes plain values and the frozen params
dataclasses that the tables of data sources and selectors name.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from raydistill.config.space import Section, Space, broken

SPLITS = Literal["leave_one_out", "global_time", "user_time"]
CONTROLS = Literal["teacher", "popularity", "scratch", "scratch_kd", "no_kd"]
SCHEDULES = Literal["cosine", "constant"]
COSTS = ("backbone_parameters", "parameters", "flops")
"""Costs that a search may minimize: known from the student's shape, so that they do not depend on the machine."""


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise broken("must start with a letter or digit and hold only letters, digits, '.', '_' and '-'")
    return text


Name = Annotated[str, AfterValidator(_name)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]


class DataKeys(Section):
    """Keys of ``data`` that every source has; the source's own parameters stand beside them.

    Attributes:
        min_interactions: Users and items with fewer are dropped, again and again; 0 drops none.
        max_length: Longest history that a model sees.
        duplicates: Which of several interactions of one user with one item stays.
        min_rating: Smallest rating that counts as an interaction; null counts all.
        time_cuts: Shares at which training and validation end: of all interactions with ``global_time``, of each
            user's own with ``user_time``.
    """

    source: str
    split: SPLITS = "leave_one_out"
    min_interactions: Whole = 5
    max_length: Annotated[int, Field(ge=2)] = 50
    duplicates: Literal["first", "last", "keep"] = "first"
    min_rating: float | None = None
    time_cuts: Annotated[tuple[OpenShare, ...], Field(min_length=2, max_length=2)] = (0.8, 0.9)

    @model_validator(mode="after")
    def _ascending_cuts(self) -> DataKeys:
        if self.time_cuts[0] >= self.time_cuts[1]:
            raise broken("the first cut must be before the second", at=("time_cuts",))
        return self


class Data(DataKeys):
    """``data`` with ``params``, the frozen params dataclass of the source."""

    params: Any = None


class Teacher(Section):
    """The deep model: a family with its shape, or a pretrained checkpoint.

    Attributes:
        epochs: Most epochs that it is trained; 0 takes a pretrained one as it is.
        epoch_examples: As in ``training``, but its own: null is all.
        lr, batch_size, weight_decay, warmup, schedule: Those of ``training`` where not given.
        dropout: 0.1 where the teacher is built from a family; null is what a pretrained one has.
        patience: Epochs without a better validation NDCG@10 before training stops; null trains all of them.
        intermediate: Width of the feed-forward part; null is four times ``hidden``.
        initializer_range: Standard deviation of the first weights, where the family has such a key; null is the
            family's own, which is meant for wide models: a narrow one learns faster from about ``hidden ** -0.5``.
    """

    family: str | None = None
    pretrained: str | None = None
    layers: Count | None = None
    hidden: Count | None = None
    heads: Count | None = None
    intermediate: Count | None = None
    initializer_range: Positive | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    epochs: Whole
    epoch_examples: Count | None = None
    seed: Whole = 0
    lr: Positive | None = None
    batch_size: Count | None = None
    weight_decay: NonNegative | None = None
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None
    schedule: SCHEDULES | None = None
    patience: Count | None = 5

    @model_validator(mode="after")
    def _whole_shape(self) -> Teacher:
        if (self.family is None) == (self.pretrained is None):
            raise broken("exactly one of family and pretrained is given", allowed=("family", "pretrained"))
        shape = ("layers", "hidden", "heads")
        if self.pretrained is not None:
            for key in (*shape, "intermediate", "initializer_range"):
                if getattr(self, key) is not None:
                    raise broken("a pretrained teacher brings its own shape; leave this key out", at=(key,))
            return self
        for key in shape:
            if getattr(self, key) is None:
                raise broken("required where the teacher is built from a family, but not given", at=(key,))
        if self.hidden % self.heads:
            raise broken(
                f"hidden must be a multiple of heads: {self.hidden} is not a multiple of {self.heads}", at=("heads",)
            )
        if self.epochs == 0:
            raise broken(
                "must be at least 1 where the teacher is built from a family: it starts at random", at=("epochs",)
            )
        return self


class SelectorKeys(Section):
    """Keys that every selector has; the selector's own parameters stand beside them.

    Attributes:
        name: Its name in the table of selectors.
        label: Name of the arm; the selector's name where not given.
    """

    name: str
    label: Name | None = None


class Selector(SelectorKeys):
    """One entry of ``selectors`` with ``params``, the frozen params dataclass of the selector."""

    params: Any = None

    @property
    def arm(self) -> str:
        """Name of the arm that this entry makes."""
        return self.label or self.name


class Evidence(Section):
    """How layer evidence is measured, on training data only.

    Attributes:
        samples: Examples in one calibration sample.
        replicates: Calibration samples, each drawn on its own.
        fisher_draws: Labels drawn from the model for each example, for the true Fisher.
    """

    samples: Count = 512
    replicates: Count = 3
    batch_size: Count = 64
    fisher_draws: Count = 2
    seed: Whole = 0


class Training(Section):
    """How a student is trained; the teacher takes what it does not say itself.

    Attributes:
        epoch_examples: Examples of one epoch, drawn anew for each; null is all of them.
        warmup: Share of all steps in which the learning rate rises.
        clip: Largest norm of the gradient; null clips nothing.
        groups: Length groups that a random batch is split into, so that little is padded.
        mask_probability, mask_patterns: For bidirectional models: share of items masked, and fixed patterns a user.
        patience: Epochs without a better validation metric before training stops; null trains all of them.
    """

    epochs: Count
    epoch_examples: Count | None = None
    batch_size: Count = 256
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    schedule: SCHEDULES = "cosine"
    clip: Positive | None = 1.0
    groups: Count = 5
    mask_probability: OpenShare = 0.2
    mask_patterns: Count = 4
    precision: Literal["float32", "bfloat16"] = "float32"
    patience: Count | None = None
    gradient_accumulation: Count = 1
    gradient_checkpointing: bool = False


class Distillation(Section):
    """Fixed values of the loss, for whatever is not searched; ``alpha_task`` null is 1 - ``alpha_dist``."""

    temperature: Positive = 4.0
    alpha_dist: Share = 0.7
    alpha_task: NonNegative | None = None
    alpha_hidden: NonNegative = 0.0


class Search(Section):
    """The search of every arm, each with the same budget.

    Attributes:
        trials: Trials of each arm.
        reduction: One of this many trials goes on at each rung of ``asha``.
        grace: Epochs before the first rung.
        startup: Trials drawn at random before the sampler learns from results.
        per_arm: Trials of one arm that may run at once. They are suggested together, from the results of
            earlier groups only, so suggestions do not depend on timing.
    """

    trials: Count
    space: Space
    objectives: Annotated[dict[str, Literal["max", "min"]], Field(min_length=1)] = {  # noqa: RUF012 - never changed
        "ndcg@10": "max",
        "backbone_parameters": "min",
    }
    early_stopping: Literal["asha", "none"] = "asha"
    reduction: Annotated[int, Field(ge=2)] = 3
    grace: Count = 1
    sampler: Literal["tpe", "random"] = "tpe"
    startup: Count = 5
    per_arm: Count = 2
    seed: Whole = 0


class Confirm(Section):
    """What is trained again with fresh seeds and tested once.

    Attributes:
        seeds: Fresh seeds of each arm and keep-ratio.
        configurations: Best configurations of each arm and keep-ratio that are confirmed.
        teachers: Teachers trained independently; a claim from one teacher is a claim about that teacher.
    """

    seeds: Count
    configurations: Count = 1
    teachers: Count = 1


class Analysis(Section):
    """What is concluded, fixed before the results are known.

    Attributes:
        metric: The metric of every claim.
        reference: The arm that the others are compared with; ``uniform`` where that is an arm.
        margin: How much worse still counts as not worse, as a share of the other's mean.
        level: Significance level.
    """

    metric: str = "ndcg@10"
    reference: str | None = None
    margin: OpenShare = 0.02
    level: Annotated[float, Field(gt=0, lt=0.5)] = 0.05


def _auto_or_count(value: Any) -> Any:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise broken("must be auto or a whole number of at least 1")
    return value


def _address(text: str) -> str:
    if text.startswith("ray://"):
        # Ray Client would pickle the dealer to where Tune runs; only Tune's own trials would come back.
        raise broken("must be on the cluster, not ray://: submit the sweep with `ray job submit` (docs/cluster.md)")
    if text not in ("auto", "local") and not re.fullmatch(r"[\w.\-\[\]:]+:[0-9]+", text):
        raise broken("must be auto, local or HOST:PORT")
    return text


def _folder(text: str) -> str:
    if "://" in text:
        raise broken(
            "must be a folder: what lies there is memory-mapped; mount the bucket, and give its address to "
            "execution.checkpoints"
        )
    return text


def _gpu_share(value: float) -> float:
    if value > 1 and value != int(value):
        raise broken("must be a share of one GPU (below 1) or a whole number of GPUs")
    return value


Gpus = Annotated[NonNegative, AfterValidator(_gpu_share)]


class Execution(Section):
    """Where and how it runs: nothing here can change a result, so it is part of no identity.

    Attributes:
        storage: Folder that run directories and prepared data lie in; on a cluster one that all nodes see.
        checkpoints: Folder or address (``s3://``, ``gs://`` and whatever else pyarrow knows) for checkpoints of
            training; the run directory where None.
        keep_models: Whether confirm keeps every student's weights beside its record, for ``export``.
        cuda_graphs: Whether optimizer steps on a GPU are captured and replayed where they can be.
    """

    address: Annotated[str, AfterValidator(_address)] = "auto"
    workers: Count = 1
    gpus_per_worker: Gpus = 0.0
    gpus_per_trial: Gpus = 0.0
    cpus_per_trial: Positive = 1.0
    strategy: Literal["ddp", "fsdp"] = "ddp"
    concurrency: Annotated[Any, BeforeValidator(_auto_or_count)] = "auto"
    storage: Annotated[str, AfterValidator(_folder)] = "runs"
    checkpoints: str | None = None
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    dashboard: bool = True
    keep_models: bool = False
    cuda_graphs: bool = True


class RootKeys(Section):
    """Keys of the file itself; a task may have sections of its own beside them."""

    name: Name
    task: str


class Sweep(RootKeys):
    """One sweep, complete: every default is filled in.

    Attributes:
        sections: The task's own sections as its frozen dataclass, or None where it has none.
    """

    data: Data
    teacher: Teacher
    selectors: Annotated[tuple[Selector, ...], Field(min_length=1)]
    controls: tuple[CONTROLS, ...]
    evidence: Evidence = Evidence()
    training: Training
    distillation: Distillation = Distillation()
    search: Search
    confirm: Confirm
    analysis: Analysis = Analysis()
    execution: Execution = Execution()
    sections: Any = None
