"""Evidence from gradients: one forward, then one backward with the data's labels and one for each draw of labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from raydistill.training.calibration import CalibrationBatch, Logits, draw_labels, example_losses
from raydistill.training.meter import Meter
from raydistill.training.observation import block_states
from raydistill.training.per_example import Recording, recorded, squared_norms

DRAWN = ("fisher", "fisher_mean")
LABELLED = ("fisher_empirical", "fisher_empirical_mean", "gradient", "taylor", "taylor_group", "taylor_block")


def gradient_kinds(
    model: nn.Module,
    batches: Sequence[CalibrationBatch],
    logits: Logits,
    rows: Sequence[nn.Module],
    asked: set[str],
    rng: np.random.Generator,
    draws: int,
    chunk_size: int,
    meter: Meter,
) -> dict[str, np.ndarray]:
    """Return the Fisher, gradient and Taylor kinds of one replicate, ``Float64[layers]`` each.

    Args:
        model: In eval mode.
        batches: The replicate.
        logits: From model and batch to ``Float[targets, classes]``.
        rows: The blocks.
        asked: Kinds to measure; others may be among the result.
        rng: For the labels that the true Fisher draws.
        draws: Labels drawn for each target.
        chunk_size: Examples in memory at a time.
        meter: Charged with the passes ``forward``, ``labels`` and ``draws``.
    """
    n_layers = len(rows)
    parameters = [parameter for block in rows for parameter in block.parameters()]
    labelled = bool(asked & set(LABELLED))
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(n_layers))
    whole = [torch.zeros_like(parameter) for parameter in parameters] if "taylor" in asked else []
    n_examples = 0
    for batch in batches:
        uniforms = torch.from_numpy(rng.random((draws, len(batch.labels))))
        for piece, places in batch.to(next(model.parameters()).device).chunks(chunk_size):
            n_examples += piece.n_rows
            with meter.part("forward"), recorded(rows, piece.n_rows) as recording, block_states(rows) as states:
                scores = logits(model, piece)
            if labelled:
                with meter.part("labels"):
                    keep_graph = bool(asked & set(DRAWN))
                    losses = example_losses(scores, piece.labels, piece)
                    _add_labelled(sums, whole, recording, states, losses, parameters, n_layers, asked, keep_graph)
            if asked & set(DRAWN):
                with meter.part("draws"):
                    for draw in range(draws):
                        labels = draw_labels(scores, uniforms[draw].to(scores.device)[places])
                        losses = example_losses(scores, labels, piece)
                        keep_graph = draw + 1 < draws
                        outputs = _output_gradients(recording, losses, [], keep_graph)
                        squares, _ = squared_norms(recording, outputs, losses, n_layers)
                        sums["fisher"] += squares.sum(dim=0).cpu().numpy() / draws
    values = {kind: total / n_examples for kind, total in sums.items()}
    sizes = np.array([sum(parameter.numel() for parameter in block.parameters()) for block in rows])
    for kind in ("fisher", "fisher_empirical"):
        if kind in values:
            values[f"{kind}_mean"] = values[kind] / sizes
    if whole:
        terms = [float((w.detach() * g).abs().sum()) for w, g in zip(parameters, whole, strict=True)]
        owner = [layer for layer, block in enumerate(rows) for _ in block.parameters()]
        values["taylor"] = np.bincount(owner, weights=terms, minlength=n_layers) / n_examples
    return values


def _add_labelled(sums, whole, recording, states, losses, parameters, n_layers, asked, keep_graph) -> None:
    """Add the sums over a chunk's examples of what one backward with the labels of the data tells."""
    targets = [after for _, after in states] + (parameters if whole else [])
    gradients = _output_gradients(recording, losses, targets, keep_graph)
    n_calls = len(recording.calls)
    outputs, further = gradients[:n_calls], gradients[n_calls:]
    squares, products = squared_norms(recording, outputs, losses, n_layers, products="taylor_group" in asked)
    sums["fisher_empirical"] += squares.sum(dim=0).cpu().numpy()
    sums["gradient"] += squares.sqrt().sum(dim=0).cpu().numpy()
    sums["taylor_group"] += products.abs().sum(dim=0).cpu().numpy()
    for layer, (before, after) in enumerate(states):
        change = -(further[layer] * (after - before).detach()).double().sum()
        sums["taylor_block"][layer] += float(change)
    for total, gradient in zip(whole, further[n_layers:], strict=True):
        if gradient is not None:
            total += gradient


def _output_gradients(
    recording: Recording, losses: torch.Tensor, further: list[torch.Tensor], keep_graph: bool
) -> tuple[torch.Tensor | None, ...]:
    """Return the gradients of the sum of losses for the recorded outputs, and for ``further`` tensors after them."""
    wanted = [call.output for call in recording.calls] + further
    return torch.autograd.grad(losses.sum(), wanted, allow_unused=True, retain_graph=keep_graph or bool(recording.rest))
