"""The training loop: gradients, curves, best epochs, resuming, seeds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from training_zoo import MAX_LENGTH, small_data, small_model

from raydistill.data.batches import TrainingExamples
from raydistill.data.preference import TextBatch
from raydistill.errors import TrialDivergedError
from raydistill.losses import LossWeights
from raydistill.losses.distillation import TASK_ONLY
from raydistill.metrics import mean_metrics
from raydistill.models.recommender import build_recommender
from raydistill.training.context import RunContext
from raydistill.training.dataset import DistillationBatch, DistillationDataset
from raydistill.training.evaluation import rank_users
from raydistill.training.loop import DistillationTrainer, TrainingSettings
from raydistill.training.objective import CatalogueObjective, ClassObjective
from raydistill.training.text_dataset import TextGroup
from raydistill.training.update import Update, positions_of_a_launch

DATA = small_data()
MANY = small_data(n_users=400)
SETTINGS = TrainingSettings(epochs=3, batch_size=16, lr=3e-3, seed=1)


def dataset(causal: bool = True) -> DistillationDataset:
    return DistillationDataset(DATA, max_length=MAX_LENGTH, causal=causal)


def validate(model) -> dict[str, float]:
    return mean_metrics(rank_users(model, DATA, "validation", top=False)["rank"])


def trainer(model=None, settings=SETTINGS, **arguments) -> DistillationTrainer:
    model = model or small_model()
    return DistillationTrainer(model, dataset(model.causal), TASK_ONLY, settings, **arguments)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_equal_weights(a, b) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def gradient_of_step(family: str, **arguments) -> dict[str, torch.Tensor]:
    """Return the gradients of one whole step, split in some way, without dropout, in float64.

    The step is large enough for further groups to be worth their pass, as the assertion holds.
    """
    model = small_model(family, dropout=0.0).double()
    objective = CatalogueObjective(model, TASK_ONLY)
    examples = TrainingExamples(MANY, max_length=MAX_LENGTH, causal=model.causal)
    for rank in range(arguments.get("world_size", 1)):
        step = next(iter(examples.steps(0, batch_size=700, seed=0, rank=rank, **arguments)))
        for part in step.parts:
            assert (len(part) > 1) == (arguments["groups"] > 1)
            objective([DistillationBatch(batch, None) for batch in part], step.n_targets)[0].backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("split", [{"groups": 4}, {"groups": 1, "parts": 3}, {"groups": 3, "world_size": 3}])
def test_the_gradients_of_the_parts_add_up_to_that_of_the_whole_batch(family, split):
    whole = gradient_of_step(family, groups=1)
    assert max(value.abs().max() for value in whole.values()) > 1e-3
    for name, value in gradient_of_step(family, **split).items():
        assert (value - whole[name]).abs().max() <= 2e-7 * whole[name].abs().max() + 1e-12, name


def test_the_loss_is_the_mean_cross_entropy_over_the_targets_of_the_epoch():
    """One step over everything with a learning rate of nothing: the curve's loss is a loop's mean."""
    model = small_model(dropout=0.0)
    total, count = 0.0, 0
    with torch.no_grad():
        for user in range(DATA.n_users):
            items = DATA.items[DATA.offsets[user] : DATA.train_end[user]][-MAX_LENGTH - 1 :]
            if items.size < 2:
                continue
            ids = torch.from_numpy(items[:-1].astype(np.int64))[None]
            logits = model.logits(model.hidden(ids))[0]
            total += float(
                torch.nn.functional.cross_entropy(logits, torch.from_numpy(items[1:] - 1).long(), reduction="sum")
            )
            count += items.size - 1
    short = [u for u in range(DATA.n_users) if DATA.train_end[u] - DATA.offsets[u] <= MAX_LENGTH + 1]
    assert len(short) < DATA.n_users  # some users have more than one window; the loop above sees their last alone
    run = trainer(model, TrainingSettings(epochs=1, batch_size=1000, lr=0.0, clip=0.0))
    run.dataset.examples.starts, run.dataset.examples.lengths, run.dataset.examples._ends = _last_windows(
        run.dataset.examples
    )
    row = run.fit().curves[0]
    assert row["loss"] == pytest.approx(total / count, rel=1e-5)
    assert row["task_loss"] == pytest.approx(row["loss"])
    assert row["distillation_loss"] == 0.0


def _last_windows(examples):
    """Return the windows that end where a user's training part ends."""
    last = np.isin(examples.starts + examples.lengths + 1, DATA.train_end)
    return examples.starts[last], examples.lengths[last], np.cumsum(examples.lengths[last])


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_training_learns_and_the_same_seed_gives_the_same_bits(family):
    runs = [trainer(small_model(family), evaluate=validate) for _ in range(2)]
    curves = [run.fit().curves for run in runs]
    assert curves[0][-1]["loss"] < curves[0][0]["loss"] - 0.05
    timing = {"seconds", "targets_per_second"}
    assert [{k: v for k, v in row.items() if k not in timing} for row in curves[0]] == [
        {k: v for k, v in row.items() if k not in timing} for row in curves[1]
    ]
    assert_equal_weights(*(weights_of(run.model) for run in runs))


def test_another_seed_gives_other_weights():
    first, second = trainer(), trainer(settings=dataclasses.replace(SETTINGS, seed=2))
    first.fit()
    second.fit()
    assert not torch.equal(first.model.output_weight, second.model.output_weight)


def test_training_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    trainer().fit()
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("change", [{"groups": 1}, {"gradient_accumulation": 3}, {"gradient_checkpointing": True}])
def test_how_a_step_is_run_does_not_change_the_curve(change):
    reference = trainer(small_model(dropout=0.0)).fit().curves
    changed = trainer(small_model(dropout=0.0), dataclasses.replace(SETTINGS, **change)).fit().curves
    assert [row["loss"] for row in changed] == pytest.approx([row["loss"] for row in reference], rel=1e-5)


def test_bfloat16_stays_near_float32_and_keeps_float32_weights():
    reference = trainer(small_model(dropout=0.0)).fit().curves
    run = trainer(small_model(dropout=0.0), dataclasses.replace(SETTINGS, precision="bfloat16"))
    curves = run.fit().curves
    assert [row["loss"] for row in curves] == pytest.approx([row["loss"] for row in reference], rel=2e-2)
    assert {value.dtype for value in run.model.parameters()} == {torch.float32}


class Scripted:
    """An evaluation that gives the values it was told, and remembers the weights it saw."""

    def __init__(self, values):
        self.values = iter(values)
        self.seen = []

    def __call__(self, model):
        self.seen.append(weights_of(model))
        return {"ndcg@10": next(self.values)}


def test_the_best_epoch_is_kept():
    evaluate = Scripted([0.1, 0.3, 0.2])
    run = trainer(evaluate=evaluate)
    result = run.fit()
    assert result.best_epoch == 2
    assert result.validation == {"ndcg@10": 0.3}
    assert_equal_weights(weights_of(run.model), evaluate.seen[1])
    assert not torch.equal(evaluate.seen[1]["backbone.wte.weight"], evaluate.seen[2]["backbone.wte.weight"])


def test_of_equal_epochs_the_first_is_kept():
    assert trainer(evaluate=Scripted([0.3, 0.3, 0.3])).fit().best_epoch == 1


def test_without_validation_the_last_epoch_is_kept():
    result = trainer().fit()
    assert result.best_epoch == 3
    assert result.validation == {}


@pytest.mark.parametrize(
    ("patience", "scores", "epochs"),
    [
        (1, [0.1, 0.2, 0.2, 0.1, 0.1, 0.1], 3),
        (2, [0.1, 0.3, 0.2, 0.3, 0.5, 0.5], 4),  # as good is no better
        (2, [0.1, 0.2, 0.2, 0.3, 0.1, 0.1], 6),
        (None, [0.3, 0.2, 0.1, 0.1, 0.1, 0.1], 6),
    ],
)
def test_patience_counts_epochs_without_a_better_one(patience, scores, epochs):
    settings = dataclasses.replace(SETTINGS, epochs=6, patience=patience)
    assert len(trainer(settings=settings, evaluate=Scripted(scores)).fit().curves) == epochs


def test_a_loss_that_is_not_finite_is_a_diverged_trial():
    model = small_model()
    with torch.no_grad():
        model.output_weight[3] = torch.nan
    with pytest.raises(TrialDivergedError, match="epoch 1"):
        trainer(model).fit()


def test_a_diverged_trial_ends_with_the_step_that_it_diverged_in(monkeypatch):
    run = trainer(settings=dataclasses.replace(SETTINGS, batch_size=8))
    taken, update = [], Update.__call__

    def third_is_not_finite(*arguments):
        taken.append(update(*arguments))
        return taken[-1] * (torch.nan if len(taken) == 3 else 1)

    monkeypatch.setattr(Update, "__call__", third_is_not_finite)
    assert run.steps_in_epoch > 4
    with pytest.raises(TrialDivergedError, match="the loss is nan in epoch 1"):
        run.fit()
    assert len(taken) == 3


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_hidden_states_are_compared_before_they_are_rounded_to_bfloat16(family):
    """The distance of a student near its teacher, against float64 of the states that the model gives."""
    model = small_model(family, dropout=0.0).eval()
    examples = TrainingExamples(DATA, max_length=MAX_LENGTH, causal=model.causal)
    batch = examples.batch(np.arange(20))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = model(batch.input_ids, batch.attention_mask).flatten(0, 1)[batch.positions]
    assert hidden.dtype == torch.float32
    teacher = (hidden + 0.02 * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))).half()
    cosine = torch.cosine_similarity(hidden.double(), teacher.double(), dim=-1)
    objective = CatalogueObjective(model, LossWeights(1.0, 0.0, 0.0, alpha_hidden=1.0))
    objective.teacher_weight = model.output_weight.detach()
    with torch.autocast("cpu", torch.bfloat16):
        total, _, _ = objective([DistillationBatch(batch, teacher)], len(hidden))
    assert total.item() == pytest.approx(1 - float(cosine.mean()), rel=1e-3)
    assert total.item() < 2**-9  # half of what is between 1 and the next smaller number of bfloat16
    total.backward()
    assert model.backbone.get_input_embeddings().weight.grad.abs().max() > 0


def test_the_hidden_states_of_texts_too():
    states = torch.randn(12, 16, generator=torch.Generator().manual_seed(1))
    teacher = (states + 0.02 * torch.randn(12, 16, generator=torch.Generator().manual_seed(2))).half()
    model = nn.Linear(16, 2)
    model.forward, model.logits = lambda input_ids, mask: states, model.forward
    batch = TextBatch(*[torch.zeros(12, 1, dtype=torch.int64)] * 2, *[torch.arange(12) % 2] * 2, torch.arange(12))
    with torch.autocast("cpu", torch.bfloat16):
        group = TextGroup(batch, torch.zeros(12, 2), teacher)
        total, _, _ = ClassObjective(model, LossWeights(1.0, 0.0, 0.0, alpha_hidden=1.0))([group], 12)
    cosine = torch.cosine_similarity(states.double(), teacher.double(), dim=-1)
    assert total.item() == pytest.approx(1 - float(cosine.mean()), rel=1e-3)


def test_a_distillation_without_a_cache_is_refused():
    with pytest.raises(ValueError, match="cache"):
        DistillationTrainer(small_model(), dataset(), LossWeights())


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_learning_rate_rises_and_falls_as_named(schedule):
    settings = TrainingSettings(epochs=4, batch_size=16, lr=0.01, warmup=0.25, schedule=schedule)
    run = trainer(settings=settings)
    n = 4 * run.steps_in_epoch
    rates = []
    for step in range(n):
        run.update.set_lr(step)
        rates.append(run.update.optimizer.param_groups[0]["lr"])
    warm = n // 4
    assert rates[:warm] == pytest.approx([0.01 * (i + 1) / warm for i in range(warm)])
    if schedule == "constant":
        assert rates[warm:] == pytest.approx([0.01] * (n - warm))
    else:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.01)
        oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n - warm)
        for rate in rates[warm:]:
            assert rate == pytest.approx(oracle.get_last_lr()[0], abs=1e-9)
            optimizer.step()
            oracle.step()


def test_norms_and_biases_are_not_decayed():
    model = small_model()
    groups = trainer(model).update.optimizer.param_groups
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model.parameters()}
    assert groups[0]["weight_decay"] == SETTINGS.weight_decay
    assert all(p.ndim >= 2 for p in groups[0]["params"])
    assert groups[1]["weight_decay"] == 0
    assert all(p.ndim < 2 for p in groups[1]["params"])


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_a_resumed_run_ends_with_the_bits_of_an_unbroken_one(tmp_path, stop_after):
    settings = dataclasses.replace(SETTINGS, epochs=4)
    values = [0.1, 0.4, 0.2, 0.3]
    unbroken = trainer(settings=settings, evaluate=Scripted(values))
    unbroken.fit()

    def report(row, _folder):
        if row["epoch"] == stop_after:
            raise Interrupted

    broken = trainer(
        settings=settings,
        evaluate=Scripted(values),
        context=RunContext(checkpoint_folder=tmp_path, report=report),
    )
    with pytest.raises(Interrupted):
        broken.fit()
    resumed = trainer(
        small_model(seed=99),
        settings,
        evaluate=Scripted(values[stop_after:]),
        context=RunContext(resume_from=tmp_path),
    )
    result = resumed.fit()
    assert_equal_weights(weights_of(resumed.model), weights_of(unbroken.model))
    assert [row["loss"] for row in result.curves] == [row["loss"] for row in unbroken.result.curves]
    assert (result.best_epoch, result.validation) == (2, {"ndcg@10": 0.4})


def test_every_epoch_is_reported_with_its_checkpoint(tmp_path):
    rows = []
    context = RunContext(checkpoint_folder=tmp_path, report=lambda row, folder: rows.append((row["epoch"], folder)))
    trainer(context=context).fit()
    assert rows == [(1, tmp_path), (2, tmp_path), (3, tmp_path)]


def test_an_epoch_of_some_examples_is_whole_steps_of_examples_drawn_anew(monkeypatch):
    seen: list[list[tuple[int, ...]]] = []
    data = dataset()
    original = data.to

    def to(group, device):
        seen[-1] += [tuple(row[row > 0].tolist()) for row in group.batch.input_ids]
        return original(group, device)

    monkeypatch.setattr(data, "to", to)
    settings = TrainingSettings(epochs=3, epoch_examples=10, batch_size=4, schedule="cosine", seed=1)
    trainer = DistillationTrainer(small_model(), data, TASK_ONLY, settings)
    rows = trainer.epochs()
    for _ in range(settings.epochs):
        seen.append([])
        next(rows)
    assert [len(epoch) for epoch in seen] == [12, 12, 12]  # three steps hold ten examples
    assert len({tuple(sorted(epoch)) for epoch in seen}) == 3
    assert trainer.steps_in_epoch == 3  # so the learning rate comes down to zero in nine steps
    assert trainer.update.optimizer.param_groups[0]["lr"] < 0.1 * settings.lr


def test_a_group_must_save_more_where_blocks_are_narrow_and_launches_count():
    def positions(width):
        sizes = {"n_items": 9, "layers": 1, "hidden": width, "heads": 2, "dropout": 0.0, "max_length": 8, "seed": 0}
        return positions_of_a_launch(build_recommender("gpt2", **sizes), "float32")

    assert positions(64) > 100_000  # more than a step has: one group
    assert positions(64) == pytest.approx(4 * positions(128), rel=0.01)
