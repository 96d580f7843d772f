"""Optimizer steps replayed as CUDA graphs.

A step of a small student is some hundred kernels of a few microseconds each, and Python takes longer to launch them
than the device to run them. A CUDA graph launches all of them at once. Its shapes are fixed, so steps are padded to
one of few shapes: rows without targets, and targets that do not count, change neither loss nor gradient.

The first steps of a shape are launched one kernel at a time, since what is captured must have run before; they are
steps of the training like all others. Nothing in a captured step may wait for the device. That cannot be tried without
capturing one: transformers itself asks the device for the content of masks, but not while it is captured.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raydistill.errors import UserError
from raydistill.garbage import without_collection

FIRST_STEPS = 2
"""Steps of a shape that are not captured."""

MOST_GRAPHS = 16
"""Shapes that are captured: further ones are rare."""

Take = Callable[[list[list[Any]], Tensor], Tensor]
"""Takes a step of the length groups of its parts, divided by a number of targets, and returns its losses."""


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    group: Any
    count: Tensor
    losses: Tensor


class StepGraphs:
    """Takes steps of one length group each.

    Args:
        dataset: Pads a group to one of few shapes, and brings it to a device.
        rows: Sequences of a step.
        device: The accelerator.
    """

    def __init__(self, dataset: Any, rows: int, device: torch.device) -> None:
        self.dataset, self.rows, self.device = dataset, rows, device
        self.graphs: dict[Any, _Graph] = {}
        self._seen: Counter = Counter()
        self._pool = torch.cuda.graph_pool_handle()

    def step(self, take: Take, group: Any, n_targets: int) -> Tensor:
        """Take a step and return its losses, which the next step overwrites.

        Args:
            take: Takes a step.
            group: On the host.
            n_targets: Of the step.

        Raises:
            UserError: The step cannot be captured.
        """
        group = self.dataset.padded(group, self.rows)
        shape = tuple(tensor.shape for tensor in group.tensors())
        if shape not in self.graphs:
            self._seen[shape] += 1
            if len(self.graphs) >= MOST_GRAPHS or self._seen[shape] <= FIRST_STEPS:
                return self._launch(take, group, n_targets)
            self.graphs[shape] = self._capture(take, group)
        captured = self.graphs[shape]
        for inside, tensor in zip(captured.group.tensors(), group.tensors(), strict=True):
            inside.copy_(tensor, non_blocking=True)
        captured.count.fill_(n_targets)
        captured.graph.replay()
        return captured.losses

    def _launch(self, take: Take, group: Any, n_targets: int) -> Tensor:
        """Take a step kernel by kernel, on the stream that it is captured on."""
        group = self.dataset.to(group, self.device)
        count = torch.full((), float(n_targets), device=self.device)
        with _aside(self.device):
            return take([[group]], count)

    def _capture(self, take: Take, group: Any) -> _Graph:
        group, count = self.dataset.to(group, self.device), torch.ones((), device=self.device)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()  # the graph's memory is its own: what steps before it had must not stand beside it
        try:
            # Not torch.cuda.graph, of which some releases collect all garbage first: as long as a hundred steps.
            with without_collection(), _aside(self.device):  # what is collected might be of the device
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    losses = take([[group]], count)
                finally:
                    graph.capture_end()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # torch does not come back from a broken capture: neither its allocator nor its random numbers do.
            raise UserError(
                f"a training step cannot be captured as a CUDA graph: {error}",
                where="execution.cuda_graphs",
                mend="set execution.cuda_graphs=false: steps are then launched kernel by kernel",
            ) from error
        return _Graph(graph, group, count, losses)


@functools.cache
def _side(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of captures: one a process, since torch keeps memory for each stream that was ever used."""
    return torch.cuda.Stream(device)


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Run on the stream of captures, after all before and before all after."""
    own, side = torch.cuda.current_stream(device), _side(device)
    side.wait_stream(own)
    try:
        with torch.cuda.stream(side):
            yield
    finally:
        own.wait_stream(side)
