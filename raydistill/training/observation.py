"""Evidence that needs no gradient: where attention looks, how far blocks turn the hidden state, what skipping costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from raydistill.errors import EvidenceError
from raydistill.models import Stack, attention_probabilities, backbone_of, skip_layers
from raydistill.training.calibration import CalibrationBatch, Logits, example_losses
from raydistill.training.meter import Meter


@contextmanager
def block_states(blocks: Sequence[nn.Module]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield a list that each block's forward appends its input and output hidden state to."""
    states: list[tuple[Tensor, Tensor]] = []

    def record(module: nn.Module, args: tuple, kwargs: dict, output) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        states.append((before, output[0] if isinstance(output, tuple) else output))

    handles = [block.register_forward_hook(record, with_kwargs=True) for block in blocks]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def attention_states(model: nn.Module, stack: Stack) -> Iterator[list[Tensor]]:
    """Yield a list that a forward pass fills with attention probabilities, one ``[n, heads, query, key]`` a block."""
    found: list[Tensor] = []
    backbone = backbone_of(model)

    def ask(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {**kwargs, "output_attentions": True}

    def keep(module: nn.Module, args: tuple, output) -> None:
        found.extend(attention_probabilities(output, stack))

    handles = [backbone.register_forward_pre_hook(ask, with_kwargs=True), backbone.register_forward_hook(keep)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def concentration(
    probabilities: Float[Tensor, "n heads query key"], real: Bool[Tensor, "n seq"]
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Return each example's attention concentration, and whether it has one: a position with two keys to choose from.

    ``1 - entropy / log(keys)`` for each real query position that may look at two or more real keys; the mean over
    these positions, then over heads. Which keys a position may look at is read off the probabilities: a pair of
    positions counts as open if any head of any example gives it more than zero, which a mask never does. A causal
    model's position i so has i + 1 keys, a sliding window's at most its width.
    """
    weights = probabilities.detach()
    if weights.dtype not in (torch.float32, torch.float64):
        weights = weights.float()
    pairs = real[:, :, None] & real[:, None, :]
    opened = ((weights != 0).any(dim=1) & pairs).any(dim=0)  # NaN counts as open, and shows in the result
    keys = (pairs & opened).sum(dim=-1)
    entropy = -torch.xlogy(weights, weights).sum(dim=-1)
    rows = keys > 1
    each = 1 - entropy.double() / keys.clamp(min=2).double().log()[:, None]
    n_rows = rows.sum(dim=-1)
    mean = each.masked_fill(~rows[:, None], 0).sum(dim=-1).mean(dim=1) / n_rows.clamp(min=1)
    return mean, n_rows > 0


class Observations:
    """Adds up attention, block_influence and contiguous over the chunks of one replicate.

    Args:
        asked: Kinds to measure.
        meter: Charged with ``attention`` and ``hidden``, what is computed from a forward pass.
    """

    def __init__(self, asked: set[str], meter: Meter) -> None:
        self.asked = asked
        self.meter = meter
        self.found: dict[str, list[Tensor]] = defaultdict(list)

    @torch.no_grad()
    def add(
        self, real: Bool[Tensor, "n seq"], probabilities: Sequence[Tensor], states: Sequence[tuple[Tensor, Tensor]]
    ) -> None:
        """Add a chunk: its real positions, each block's attention probabilities, each block's input and output."""
        if "attention" in self.asked:
            with self.meter.part("attention"):
                each, usable = zip(*(concentration(one, real) for one in probabilities), strict=True)
                self.found["attention"].append(torch.stack(each, dim=1)[usable[0]])
        if self.asked & {"block_influence", "contiguous"}:
            with self.meter.part("hidden"):
                if "block_influence" in self.asked:
                    self.found["block_influence"].append(turning(states, real))
                if "contiguous" in self.asked:
                    self.found["contiguous"].append(angular_distances(states, real))

    def values(self) -> dict[str, np.ndarray]:
        """Return the kinds, ``Float64[layers]``, or ``[layers, layers]`` for ``contiguous``.

        Raises:
            EvidenceError: Attention is asked for, and no position may look at two others.
        """
        if "attention" in self.asked and not sum(map(len, self.found["attention"])):
            raise EvidenceError(
                "no calibration example has a position that may look at two others",
                where="evidence attention",
                mend="use longer sequences, or leave out the selectors that need attention",
            )
        return {kind: torch.cat(each).mean(dim=0).cpu().numpy() for kind, each in self.found.items()}


def mean_over(values: Float[Tensor, "n seq"], real: Bool[Tensor, "n seq"]) -> Float[Tensor, " n"]:
    """Return each example's mean over its real positions."""
    return (values * real).sum(dim=-1) / real.sum(dim=-1)


def angular_distances(
    states: Sequence[tuple[Tensor, Tensor]], real: Bool[Tensor, "n seq"]
) -> Float[Tensor, "n layers layers"]:
    """Return ``arccos(cos(input of block i, output of block j)) / pi`` at [i, j], i <= j, averaged over positions."""
    before, after = (
        nn.functional.normalize(torch.stack([pair[side] for pair in states]).double(), dim=-1) for side in (0, 1)
    )
    cosines = torch.einsum("intd,jntd->ijnt", before, after).clamp(-1, 1)
    return mean_over(cosines.arccos() / torch.pi, real).permute(2, 0, 1).triu()


def turning(states: Sequence[tuple[Tensor, Tensor]], real: Bool[Tensor, "n seq"]) -> Float[Tensor, "n layers"]:
    """Return ``1 - cos(input, output)`` of each block, averaged over the real positions of each example."""
    cosines = [nn.functional.cosine_similarity(a.double(), b.double(), dim=-1) for a, b in states]
    return torch.stack([1 - mean_over(cosine, real) for cosine in cosines], dim=1)


def mean_loss(
    model: nn.Module, batches: Iterable[CalibrationBatch], logits: Logits, stack: Stack, skipped: Sequence[int] = ()
) -> float:
    """Return the mean example loss of a model that runs without the blocks ``skipped``."""
    total, n_examples = 0.0, 0
    with torch.no_grad(), skip_layers(model, {stack.name: list(skipped)}):
        for batch in batches:
            total += float(example_losses(logits(model, batch), batch.labels, batch).double().sum())
            n_examples += batch.n_rows
    if not np.isfinite(total):
        raise EvidenceError(
            f"the loss without blocks {sorted(skipped)} is not finite",
            where="calibration data",
            mend="check that the teacher's training did not diverge, and use float32",
        )
    return total / n_examples


def removal(
    model: nn.Module,
    batches: Sequence[CalibrationBatch],
    logits: Logits,
    stack: Stack,
    n_layers: int,
    kinds: set[str],
    meter: Meter,
) -> dict[str, np.ndarray]:
    """Return the evidence kinds that skip blocks, ``Float64[layers]`` each: leave_one_out, greedy, greedy_loss."""
    values = {}
    with meter.part("base_loss"):
        base = mean_loss(model, batches, logits, stack)
    if "leave_one_out" in kinds:
        with meter.part("leave_one_out"):
            losses = [mean_loss(model, batches, logits, stack, [layer]) for layer in range(n_layers)]
        values["leave_one_out"] = np.array(losses) - base
    if kinds & {"greedy", "greedy_loss"}:
        with meter.part("greedy"):
            order, increases = _greedy(model, batches, logits, stack, n_layers)
        values["greedy"], values["greedy_loss"] = np.empty(n_layers), np.empty(n_layers)
        for step, (layer, loss) in enumerate(zip(order, increases, strict=True), start=1):
            values["greedy"][layer], values["greedy_loss"][layer] = step, loss - base
    return values


def _greedy(
    model: nn.Module, batches: Sequence[CalibrationBatch], logits: Logits, stack: Stack, n_layers: int
) -> tuple[list[int], list[float]]:
    """Return the blocks in the order of their removal, and the loss after each; of equal losses the deeper goes."""
    order: list[int] = []
    losses: list[float] = []
    while len(order) < n_layers:
        left = [layer for layer in reversed(range(n_layers)) if layer not in order]
        trial = {layer: mean_loss(model, batches, logits, stack, [*order, layer]) for layer in left}
        order.append(min(trial, key=trial.__getitem__))
        losses.append(trial[order[-1]])
    return order, losses
