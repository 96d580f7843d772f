"""What a model of each depth costs to serve, measured on built models while nothing else runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.metrics import call_ms, count_parameters, forward_flops, percentiles

BATCHES = (1, 32)
ROUNDS = 5
TURN_S = 0.5
"""Seconds after which a depth whose calls are slow lets the next one have its turn."""

Serve = Callable[[nn.Module, int, torch.device], Callable[[], Tensor]]
"""From a model, a batch size and a device to a call that answers for that many users of full length."""


def profile(
    teacher: nn.Module, depths: list[int], serve: Serve, *, device: torch.device, repeats: int = 8
) -> dict[str, Any]:
    """Return parameters, FLOPs and latency of the teacher and of students of the given depths.

    Latency depends on the shape of a model, not on its weights, so one student of each depth stands for
    all. The depths take turns over several rounds, so that a machine whose speed drifts does not favour one.

    Args:
        teacher: The teacher, in eval mode.
        depths: Numbers of layers, the teacher's own among them.
        serve: Gives the call that is timed.
        device: Where to measure.
        repeats: Timed calls of each depth and batch size in each of the rounds; fewer where they take long.

    Returns:
        ``depths``: by number of layers, ``parameters``, ``backbone_parameters``, ``flops`` (one user of
        full length, output layer included) and ``latency_ms`` by batch size with ``p50`` and ``p95``;
        ``threads`` and ``device``.
    """
    models = {depth: teacher.keep_layers(list(range(depth))).to(device).eval() for depth in depths}
    result: dict[str, Any] = {
        str(depth): count_parameters(model) | {"flops": forward_flops(serve(model, 1, device)), "latency_ms": {}}
        for depth, model in models.items()
    }
    for batch in BATCHES:
        durations: dict[int, list[float]] = {depth: [] for depth in depths}
        for _ in range(ROUNDS):
            for depth, model in models.items():
                durations[depth] += call_ms(serve(model, batch, device), repeats=repeats, warmup=1, at_most_s=TURN_S)
        for depth, measured in durations.items():
            result[str(depth)]["latency_ms"][str(batch)] = percentiles(measured)
    return {"depths": result, "threads": torch.get_num_threads(), "device": str(device)}
