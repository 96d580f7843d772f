"""The paths of an accelerator, against the same on the CPU. Needs a GPU: ``pytest -m gpu``."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.distributed as dist
from evidence_zoo import make
from text_job_zoo import text_resources
from text_workers import outcome
from training_zoo import MAX_LENGTH, small_data, small_model

from raydistill.errors import UserError
from raydistill.losses import LossWeights
from raydistill.losses.distillation import TASK_ONLY
from raydistill.metrics import mean_metrics
from raydistill.selectors import KINDS
from raydistill.training import parallel
from raydistill.training.context import RunContext
from raydistill.training.dataset import DistillationDataset
from raydistill.training.evaluation import rank_users
from raydistill.training.evidence import measure_evidence
from raydistill.training.fsdp import shard
from raydistill.training.loop import DistillationTrainer, TrainingSettings
from raydistill.training.objective import CatalogueObjective
from raydistill.training.teacher_cache import build_teacher_cache

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

DATA = small_data(n_users=400)
SETTINGS = TrainingSettings(epochs=2, batch_size=32, lr=3e-3, seed=1)
CPU = RunContext()
FAMILIES = ("gpt2", "llama", "bert", "t5")


def gpu(**further) -> RunContext:
    return RunContext(device=torch.device("cuda", 0), **further)


def dataset(causal=True, cache=None) -> DistillationDataset:
    return DistillationDataset(DATA, max_length=MAX_LENGTH, causal=causal, cache=cache)


def trained(context, family="gpt2", weights=TASK_ONLY, settings=SETTINGS, cache=None, dropout=0.0):
    """Return the trainer of a small model after all its epochs."""
    model = small_model(family, dropout=dropout)

    def validate(model):
        return mean_metrics(rank_users(model, DATA, "validation", top=False, context=context)["rank"])

    run = DistillationTrainer(
        model, dataset(model.causal, cache), weights, settings, context=context, evaluate=validate
    )
    run.fit()
    return run


def losses(run) -> list[float]:
    return [row["loss"] for row in run.result.curves]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    teacher = small_model(layers=3, seed=5)
    return build_teacher_cache(teacher, dataset().examples, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("graphs", [False, True])
def test_a_gpu_trains_as_the_cpu_does(family, graphs):
    here, there = trained(CPU, family), trained(gpu(graphs=graphs), family)
    assert losses(there) == pytest.approx(losses(here), rel=1e-4)
    for (name, value), other in zip(here.model.named_parameters(), there.model.parameters(), strict=True):
        assert torch.allclose(value, other.cpu(), atol=2e-2), name
    assert there.model.backbone.get_input_embeddings().weight.is_cuda


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_become_graphs(family):
    run = trained(gpu(), family)
    assert run.update.graphs is not None
    assert len(run.update.graphs.graphs) >= 1


def message_where_a_step_waits() -> str:
    """Return what is said where the loss asks the device for a number."""
    forward = CatalogueObjective.forward

    def waits(self, groups, normalizer):
        losses = forward(self, groups, normalizer)
        assert float(losses[0].detach()) > 0
        return losses

    CatalogueObjective.forward = waits
    try:
        trained(gpu())
    except UserError as error:
        return str(error)
    return "it was captured"


def test_a_step_that_waits_for_the_device_is_refused_with_the_switch():
    """In a process of its own: torch does not come back from a broken capture."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        message = pool.submit(message_where_a_step_waits).result()
    assert "cannot be captured" in message
    assert "execution.cuda_graphs=false" in message


def test_one_trial_after_another_takes_no_more_memory():
    reserved = []
    for _ in range(4):
        trained(gpu(), dropout=0.3)
        gc.collect()
        torch.cuda.empty_cache()
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[1] == reserved[3]


def test_recomputed_activations_are_not_captured():
    settings = dataclasses.replace(SETTINGS, gradient_checkpointing=True)
    run = trained(gpu(), dropout=0.3, settings=settings)
    assert run.update.graphs is None
    assert losses(run) == pytest.approx(losses(trained(gpu(graphs=False), dropout=0.3)), rel=1e-4)


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("alpha_hidden", [0.0, 0.5])
def test_a_gpu_distils_as_the_cpu_does(cache, graphs, alpha_hidden):
    weights = LossWeights(alpha_hidden=alpha_hidden)
    here, there = (trained(place, weights=weights, cache=cache) for place in (CPU, gpu(graphs=graphs)))
    for name in ("loss", "task_loss", "distillation_loss"):
        curves = [[row[name] for row in run.result.curves] for run in (there, here)]
        assert curves[0] == pytest.approx(curves[1], rel=1e-4), name


@pytest.mark.parametrize("graphs", [False, True])
def test_bfloat16_stays_near_float32(cache, graphs):
    settings = dataclasses.replace(SETTINGS, precision="bfloat16", epochs=4)
    exact = dataclasses.replace(SETTINGS, epochs=4)
    rounded = trained(gpu(graphs=graphs), settings=settings, weights=LossWeights(), cache=cache)
    assert losses(rounded) == pytest.approx(
        losses(trained(CPU, settings=exact, weights=LossWeights(), cache=cache)), rel=0.02
    )


@pytest.mark.parametrize("graphs", [False, True])
def test_a_seed_repeats_its_dropout(graphs):
    first, again = (trained(gpu(graphs=graphs), dropout=0.3) for _ in range(2))
    assert losses(first) == pytest.approx(losses(again), rel=1e-5)
    other = trained(gpu(graphs=graphs), dropout=0.3, settings=dataclasses.replace(SETTINGS, seed=2))
    assert losses(other) != pytest.approx(losses(first), rel=1e-4)
    without = trained(gpu(graphs=graphs))
    assert losses(without) != pytest.approx(losses(first), rel=1e-3)


def test_a_resumed_run_continues(tmp_path):
    whole = trained(gpu(), settings=dataclasses.replace(SETTINGS, epochs=3))
    folder = tmp_path / "checkpoint"
    first = DistillationTrainer(
        small_model(dropout=0.0), dataset(), TASK_ONLY, dataclasses.replace(SETTINGS, epochs=3),
        context=gpu(checkpoint_folder=folder),
    )  # fmt: skip
    next(first.epochs())
    second = DistillationTrainer(
        small_model(dropout=0.0, seed=9), dataset(), TASK_ONLY, dataclasses.replace(SETTINGS, epochs=3),
        context=gpu(resume_from=folder),
    )  # fmt: skip
    second.fit()
    assert losses(second) == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_gpu_ranks_as_the_cpu_does(family, part):
    model = small_model(family, dropout=0.0)
    here = rank_users(model, DATA, part)
    there = rank_users(model.to("cuda"), DATA, part, context=gpu())
    for name in ("user", "target", "history_length"):
        assert np.array_equal(here[name], there[name])
    # Sums in another order may swap two items whose scores are a rounding apart.
    assert np.mean(here["rank"] != there["rank"]) < 0.02
    assert np.abs(here["rank"] - there["rank"]).max() <= 1


def test_the_teacher_cache_is_the_same(cache, tmp_path):
    teacher = small_model(layers=3, seed=5).to("cuda")
    there = build_teacher_cache(teacher, dataset().examples, tmp_path / "cache", context=gpu())
    assert np.allclose(cache.hidden, there.hidden, atol=2e-3)
    assert torch.equal(cache.output_weight, there.output_weight)


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5-decoder"])
def test_evidence_is_the_same(name):
    def measured(device):
        model, logits, stack, batches = make(name)
        context = RunContext(device=torch.device(device))
        return measure_evidence(model.to(device), [batches], logits, KINDS, seed=5, stack=stack, context=context)

    here, there = measured("cpu"), measured("cuda")
    assert here.values.keys() == there.values.keys() == set(KINDS)
    for kind, values in here.values.items():
        # Some models take the softmax of attention in float32, whatever they are in.
        assert np.allclose(values, there.values[kind], rtol=1e-5, atol=1e-6), kind
    assert all(peak > 0 for peak in there.pass_peak_bytes.values())


def test_prompts_are_learned_scored_and_cached_alike(tmp_path):
    """Adapters, accumulated gradients, all three terms of the loss."""
    data = text_resources(tmp_path).data
    here, there = (outcome(data, place, tmp_path / place.device.type) for place in (CPU, gpu()))
    np.testing.assert_allclose(there["curve"], here["curve"], rtol=1e-4)
    np.testing.assert_allclose(there["cache"]["logits"], here["cache"]["logits"], rtol=1e-4, atol=1e-5)
    for name, values in here["scores"].items():
        np.testing.assert_allclose(there["scores"][name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@contextmanager
def group_of_one(tmp_path, backend="nccl"):
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def test_shares_of_one_worker_train_alike(tmp_path, monkeypatch):
    """FSDP2 over NCCL, with one rank: all that it does but the sending."""
    plain = trained(gpu(graphs=False))
    monkeypatch.setattr(parallel, "is_sharded", lambda context: context.strategy == "fsdp")
    monkeypatch.setattr(parallel, "wrap", lambda objective, context: shard(objective))
    with group_of_one(tmp_path):
        run = trained(gpu(strategy="fsdp"))
        assert type(run.update.wrapped).__name__.startswith("FSDP")
        assert losses(run) == pytest.approx(losses(plain), rel=1e-4)
        half = trained(gpu(strategy="fsdp"), settings=dataclasses.replace(SETTINGS, precision="bfloat16"))
        assert losses(half) == pytest.approx(losses(plain), rel=0.02)


def test_data_parallel_over_nccl_trains_alike(tmp_path, monkeypatch):
    plain = trained(gpu(graphs=False))
    wrap = parallel.wrap

    def wrapped(objective, context):
        return wrap(objective, dataclasses.replace(context, world_size=2))

    monkeypatch.setattr(parallel, "wrap", wrapped)
    with group_of_one(tmp_path):
        run = trained(gpu(graphs=False))
        assert type(run.update.wrapped).__name__ == "DistributedDataParallel"
        assert losses(run) == pytest.approx(losses(plain), rel=1e-4)
