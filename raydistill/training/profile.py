"""What a model of each depth costs to serve, measured on built models while nothing else runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from raydistill.metrics import count_parameters, forward_flops, latency_ms
from raydistill.models.recommender import Recommender

BATCHES = (1, 32)
ROUNDS = 5


def profile(teacher: Recommender, depths: list[int], *, device: torch.device, repeats: int = 8) -> dict[str, Any]:
    """Return parameters, FLOPs and latency of the teacher and of students of the given depths.

    Latency depends on the shape of a model, not on its weights, so one student of each depth stands for
    all. The depths take turns over several rounds, so that a machine whose speed drifts does not favour one.

    Args:
        teacher: The teacher, in eval mode.
        depths: Numbers of layers, the teacher's own among them.
        device: Where to measure.
        repeats: Timed calls of each depth and batch size in each of the rounds.

    Returns:
        ``depths``: by number of layers, ``parameters``, ``backbone_parameters``, ``flops`` (one history of full
        length, scores of all items included) and ``latency_ms`` by batch size with ``p50`` and ``p95``;
        ``threads`` and ``device``.
    """
    models = {depth: teacher.keep_layers(list(range(depth))).to(device).eval() for depth in depths}
    result: dict[str, Any] = {
        str(depth): count_parameters(model) | {"flops": forward_flops(_serve(model, 1, device)), "latency_ms": {}}
        for depth, model in models.items()
    }
    for batch in BATCHES:
        rounds: dict[int, list[dict[str, float]]] = {depth: [] for depth in depths}
        for _ in range(ROUNDS):
            for depth, model in models.items():
                rounds[depth].append(latency_ms(_serve(model, batch, device), repeats=repeats, warmup=1))
        for depth, measured in rounds.items():
            result[str(depth)]["latency_ms"][str(batch)] = {
                name: float(np.median([one[name] for one in measured])) for name in ("p50", "p95")
            }
    return {"depths": result, "threads": torch.get_num_threads(), "device": str(device)}


def _serve(model: Recommender, batch: int, device: torch.device):
    """Return a call that scores all items for a batch of histories of full length."""
    input_ids = torch.full((batch, model.max_length), 1, device=device)

    def serve() -> torch.Tensor:
        return model.logits(model.hidden(input_ids)[:, -1])

    return serve
