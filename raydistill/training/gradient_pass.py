"""Evidence from gradients of one forward: a backward with the data's labels, and one for each draw of labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from raydistill.training.calibration import CalibrationBatch, draw_labels, example_losses
from raydistill.training.meter import Meter
from raydistill.training.per_example import Recording, squared_norms

DRAWN = ("fisher", "fisher_mean")
LABELLED = ("fisher_empirical", "fisher_empirical_mean", "gradient", "taylor", "taylor_group", "taylor_block")
GRADIENT_KINDS = (*DRAWN, *LABELLED)


class GradientSums:
    """Adds up the Fisher, gradient and Taylor kinds over the chunks of one replicate.

    Args:
        rows: The blocks.
        asked: Kinds to measure; others may be among the result.
        meter: Charged with the passes ``labels`` and ``draws``.
    """

    def __init__(self, rows: Sequence[nn.Module], asked: set[str], meter: Meter) -> None:
        self.rows = rows
        self.asked = asked
        self.meter = meter
        self.n_examples = 0
        self.parameters = [parameter for block in rows for parameter in block.parameters()]
        self.sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(rows)))
        self.whole = [torch.zeros_like(parameter) for parameter in self.parameters] if "taylor" in asked else []

    def add(
        self,
        piece: CalibrationBatch,
        scores: Tensor,
        recording: Recording,
        states: Sequence[tuple[Tensor, Tensor]],
        uniforms: Tensor,
    ) -> None:
        """Add a chunk, by backward passes through the forward pass that gave its scores.

        Args:
            piece: The chunk.
            scores: ``Float[targets, classes]``, with their graph.
            recording: Of that forward pass.
            states: Each block's input and output in it.
            uniforms: ``Float[draws, targets]`` in [0, 1), for the labels that the true Fisher draws.
        """
        self.n_examples += piece.n_rows
        drawn = self.asked & set(DRAWN)
        if self.asked & set(LABELLED):
            with self.meter.part("labels"):
                self._add_labelled(example_losses(scores, piece.labels, piece), recording, states, bool(drawn))
        if drawn:
            with self.meter.part("draws"):
                draws = draw_labels(scores, uniforms)
                for number, labels in enumerate(draws, start=1):
                    losses = example_losses(scores, labels, piece)
                    outputs = _output_gradients(recording, losses, [], number < len(draws))
                    squares, _ = squared_norms(recording, outputs, losses, len(self.rows))
                    self.sums["fisher"] += squares.sum(dim=0).cpu().numpy() / len(draws)

    def _add_labelled(self, losses: Tensor, recording: Recording, states, keep_graph: bool) -> None:
        """Add the sums over a chunk's examples of what one backward with the labels of the data tells."""
        states = states if "taylor_block" in self.asked else []
        targets = [after for _, after in states] + (self.parameters if self.whole else [])
        gradients = _output_gradients(recording, losses, targets, keep_graph)
        n_calls = len(recording.calls)
        outputs, further = gradients[:n_calls], gradients[n_calls:]
        by_group = "taylor_group" in self.asked
        squares, products = squared_norms(recording, outputs, losses, len(self.rows), products=by_group)
        self.sums["fisher_empirical"] += squares.sum(dim=0).cpu().numpy()
        self.sums["gradient"] += squares.sqrt().sum(dim=0).cpu().numpy()
        self.sums["taylor_group"] += products.abs().sum(dim=0).cpu().numpy()
        for layer, (before, after) in enumerate(states):
            change = -(further[layer] * (after - before).detach()).double().sum()
            self.sums["taylor_block"][layer] += float(change)
        for total, gradient in zip(self.whole, further[len(states) :], strict=True):
            if gradient is not None:
                total += gradient

    def values(self) -> dict[str, np.ndarray]:
        """Return the kinds, ``Float64[layers]`` each."""
        values = {kind: total / self.n_examples for kind, total in self.sums.items()}
        sizes = np.array([sum(parameter.numel() for parameter in block.parameters()) for block in self.rows])
        for kind in ("fisher", "fisher_empirical"):
            if kind in values:
                values[f"{kind}_mean"] = values[kind] / sizes
        if self.whole:
            terms = [float((w.detach() * g).abs().sum()) for w, g in zip(self.parameters, self.whole, strict=True)]
            owner = [layer for layer, block in enumerate(self.rows) for _ in block.parameters()]
            values["taylor"] = np.bincount(owner, weights=terms, minlength=len(self.rows)) / self.n_examples
        return values


def _output_gradients(
    recording: Recording, losses: Tensor, further: list[Tensor], keep_graph: bool
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the sum of losses for the recorded outputs, and for ``further`` tensors after them."""
    wanted = [call.output for call in recording.calls] + further
    return torch.autograd.grad(losses.sum(), wanted, allow_unused=True, retain_graph=keep_graph or bool(recording.rest))
