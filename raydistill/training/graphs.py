"""Optimizer steps replayed as CUDA graphs.

A step of a small student is some hundred kernels of a few microseconds each, and Python takes longer to launch them
than the device to run them. A CUDA graph launches all of them at once. Its shapes are fixed, so steps are padded to
one of few shapes: rows without targets, and targets that do not count, change neither loss nor gradient.

The first steps of a shape are taken one kernel at a time, since what is captured must have run before; they are steps
of the training like all others.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

FIRST_STEPS = 2
"""Steps of a shape that are not captured; the first of all also makes the optimizer's moments."""

MOST_GRAPHS = 16
"""Shapes that are captured: further ones are rare."""

Take = Callable[[list[list[Any]], Tensor], Tensor]

log = logging.getLogger(__name__)


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
        self._most = MOST_GRAPHS
        self._seen: Counter = Counter()
        self._pool = torch.cuda.graph_pool_handle()
        self._side = torch.cuda.Stream(device)

    def step(self, take: Take, group: Any, n_targets: int) -> Tensor:
        """Take a step and return its losses, which the next step overwrites.

        Args:
            take: Takes a step of ``[[group]]``, divided by a number of targets, and returns its losses.
            group: On the host.
            n_targets: Of the step.
        """
        group = self.dataset.padded(group, self.rows)
        shape = tuple(tensor.shape for tensor in group.tensors())
        if shape not in self.graphs:
            self._seen[shape] += 1
            if self._seen[shape] > FIRST_STEPS and len(self.graphs) < self._most:
                self._capture(take, group, shape)
        if shape not in self.graphs:
            return self._launch(take, group, n_targets)
        captured = self.graphs[shape]
        for inside, tensor in zip(captured.group.tensors(), group.tensors(), strict=True):
            inside.copy_(tensor, non_blocking=True)
        captured.count.fill_(n_targets)
        captured.graph.replay()
        return captured.losses

    def _launch(self, take: Take, group: Any, n_targets: int) -> Tensor:
        """Take a step kernel by kernel, on a stream of its own, as it must run before it is captured."""
        count = torch.full((), float(n_targets), device=self.device)
        with self._aside():
            return take([[self.dataset.to(group, self.device)]], count)

    def _capture(self, take: Take, group: Any, shape: Any) -> None:
        """Capture the step of a shape; where that cannot be done, no step is captured any more."""
        group, count = self.dataset.to(group, self.device), torch.ones((), device=self.device)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        try:
            # Not torch.cuda.graph, which collects garbage first: that takes longer than a hundred steps.
            with self._aside():
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    losses = take([[group]], count)
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            log.warning("steps are launched kernel by kernel, since they cannot be captured: %s", error)
            self._most = 0
            return
        self.graphs[shape] = _Graph(graph, group, count, losses)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        own = torch.cuda.current_stream(self.device)
        self._side.wait_stream(own)
        with torch.cuda.stream(self._side):
            yield
        own.wait_stream(self._side)
