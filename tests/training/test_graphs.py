"""Which steps are captured and what is replayed, by graphs that are Python calls; the real ones need a GPU."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from training_zoo import MAX_LENGTH, small_data

from raydistill.errors import UserError
from raydistill.training import graphs
from raydistill.training.dataset import DistillationDataset
from raydistill.training.graphs import FIRST_STEPS, StepGraphs

BATCH = 16
DATASET = DistillationDataset(small_data(n_users=150), max_length=MAX_LENGTH, causal=True)


class Graph:
    """A captured step: it runs when it is replayed, and not before."""

    capturing: Graph | None = None

    def capture_begin(self, *, pool, capture_error_mode):
        Graph.capturing = self

    def capture_end(self):
        Graph.capturing = None

    def replay(self):
        self.work()


class Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    for name in ("synchronize", "empty_cache", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, lambda *given: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(graphs, "_side", lambda device: Stream())


def sums(group, count) -> torch.Tensor:
    """Return what depends on all that a step is given."""
    real = group.batch.labels >= 0
    items = group.batch.input_ids.flatten()[group.batch.positions]
    return torch.stack([items[real].sum(), group.batch.labels[real].sum(), real.sum()]).double() / count


class Steps:
    """Takes steps, and knows how each was taken."""

    def __init__(self) -> None:
        self.launched = 0
        self.captured: list[tuple] = []

    def take(self, parts, count):
        ((group,),) = parts
        graph = Graph.capturing
        if graph is None:
            self.launched += 1
            return sums(group, count)
        self.captured.append(tuple(tensor.shape for tensor in group.tensors()))
        losses = torch.zeros(3, dtype=torch.float64)
        graph.work = lambda: losses.copy_(sums(group, count))
        return losses


def epoch(number: int):
    for parts, n_targets in DATASET.steps(number, batch_size=BATCH, seed=0, groups=1):
        yield parts[0][0], n_targets


def test_every_step_is_taken_once_with_its_own_numbers():
    steps, run = Steps(), StepGraphs(DATASET, BATCH, torch.device("cpu"))
    n = 0
    for number in range(3):
        for group, n_targets in epoch(number):
            found = run.step(steps.take, group, n_targets).clone()
            assert torch.equal(found, sums(group, n_targets))
            n += 1
    assert len(set(steps.captured)) == len(steps.captured) == len(run.graphs) > 1
    assert FIRST_STEPS * len(run.graphs) <= steps.launched < n // 2


def test_rare_shapes_are_launched(monkeypatch):
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 1)
    steps, run = Steps(), StepGraphs(DATASET, BATCH, torch.device("cpu"))
    for number in range(3):
        for group, n_targets in epoch(number):
            assert torch.equal(run.step(steps.take, group, n_targets), sums(group, n_targets))
    assert len(steps.captured) == 1


def test_what_cannot_be_captured_is_refused_and_memory_is_said_to_be_short():
    def take(parts, count):
        if Graph.capturing is not None:
            raise problem
        return torch.zeros(3)

    def whole_epoch():
        run = StepGraphs(DATASET, BATCH, torch.device("cpu"))
        for group, n_targets in epoch(0):
            run.step(take, group, n_targets)

    problem = RuntimeError("operation not permitted when stream is capturing")
    with pytest.raises(UserError, match="cannot be captured as a CUDA graph: operation not permitted") as caught:
        whole_epoch()
    assert "execution.cuda_graphs=false" in caught.value.mend
    problem = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        whole_epoch()
