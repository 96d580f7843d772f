"""Evidence of how much each block matters, measured on calibration samples of the training data.

Kinds share passes, and each kind is charged with the whole of every pass it needs, as if it were the only one that is
measured, so that the cost of an arm does not depend on the other arms of a sweep:

- ``observe``: one forward without gradient, under eager attention where ``attention`` is asked for; and
  ``attention`` or ``hidden``, what is computed from it. Charged to attention, block_influence, contiguous.
- ``forward``: one forward with gradient. Charged to every Fisher kind, to gradient and every Taylor kind.
- ``labels``: one backward with the labels of the data, and per-example norms. Charged to the same but the true Fisher.
- ``draws``: one backward and per-example norms for each draw of labels. Charged to the true Fisher.
- ``base_loss``: one forward; ``leave_one_out``: one for each block; ``greedy``: n (n + 1) / 2. Charged to the kinds
  that skip blocks.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from raydistill.errors import EvidenceError
from raydistill.models import Stack, backbone_of, blocks, stacks_of, with_attention
from raydistill.seeding import stream
from raydistill.selectors import KINDS
from raydistill.training.calibration import CalibrationBatch, Logits, draw_labels, example_losses, real_positions
from raydistill.training.meter import Meter
from raydistill.training.observation import (
    angular_distances,
    attention_states,
    block_states,
    concentration,
    removal,
    turning,
)
from raydistill.training.per_example import Recording, recorded, squared_norms

__all__ = ["CalibrationBatch", "Evidence", "measure_evidence"]

log = logging.getLogger(__name__)

_DRAWN = ("fisher", "fisher_mean")
_LABELLED = ("fisher_empirical", "fisher_empirical_mean", "gradient", "taylor", "taylor_group", "taylor_block")
_OBSERVED = {"attention": "attention", "block_influence": "hidden", "contiguous": "hidden"}
_REMOVED = ("leave_one_out", "greedy", "greedy_loss")


@dataclass(frozen=True)
class Evidence:
    """What was measured, and what it cost.

    Attributes:
        values: By kind, ``Float64[replicates, layers]``, or ``[replicates, layers, layers]`` for ``contiguous``.
        seconds: By kind, as if it had been measured alone.
        peak_memory_bytes: By kind, above what was in use before.
        samples: Examples in each replicate.
        total_seconds: Of all kinds together.
    """

    values: dict[str, np.ndarray]
    seconds: dict[str, float]
    peak_memory_bytes: dict[str, int]
    samples: int
    total_seconds: float

    @property
    def replicates(self) -> int:
        """Number of calibration samples."""
        return len(next(iter(self.values.values())))


def measure_evidence(
    model: nn.Module,
    batches_per_replicate: Sequence[Sequence[CalibrationBatch]],
    logits: Logits,
    kinds: Sequence[str],
    *,
    seed: int,
    samples: int | None = None,
    draws: int = 1,
    chunk_size: int = 64,
    stack: str | None = None,
) -> Evidence:
    """Return the evidence ``kinds`` of a model, in eval mode, one row for each calibration sample.

    The model comes back as it was: mode, attention implementation, gradients and random state. That the batches are
    of the training data only is the caller's duty.

    Args:
        model: A Hugging Face model of a known family, or a wrapper with one as its ``backbone``.
        batches_per_replicate: One sequence of batches for each calibration sample.
        logits: From model and batch to ``Float[targets, classes]``.
        kinds: Of :data:`raydistill.selectors.KINDS`; an empty sequence measures nothing.
        seed: For the labels that the true Fisher draws.
        samples: Examples that each replicate must have; None takes what is there.
        draws: Labels drawn for each target by the true Fisher; its value is the mean over them.
        chunk_size: Examples in memory at a time; peak memory grows with it.
        stack: Which stack of blocks, where the model has several.

    Raises:
        EvidenceError: Unknown kinds, too little data, frozen or quantized parameters, or values that are not finite.
        ModelError: Unknown family or stack.
    """
    asked = set(_check_kinds(kinds))
    chosen = _stack(model, stack)
    rows = list(blocks(model, chosen.name))
    n_examples = _check_size(batches_per_replicate, samples)
    if asked & {*_DRAWN, *_LABELLED}:
        _check_parameters(model, rows)
    device = next(model.parameters()).device
    values: dict[str, list[np.ndarray]] = defaultdict(list)
    with _evaluating(model), Meter(device) as meter:
        for replicate, batches in enumerate(batches_per_replicate):
            measured: dict[str, np.ndarray] = {}
            if asked & set(_OBSERVED):
                measured |= _observed(model, batches, logits, chosen, rows, asked, chunk_size, meter)
            if asked & {*_DRAWN, *_LABELLED}:
                rng = stream(seed, "evidence", replicate)
                measured |= _gradients(model, batches, logits, rows, asked, rng, draws, chunk_size, meter)
            if asked & set(_REMOVED):
                pieces = [piece for batch in batches for piece, _ in batch.to(device).chunks(chunk_size)]
                measured |= removal(model, pieces, logits, chosen, len(rows), asked, meter)
            for kind in asked:
                _check_finite(kind, measured[kind])
                values[kind].append(measured[kind])
    parts = {kind: [part for part in _parts(kind) if part in meter.seconds] for kind in sorted(asked)}
    return Evidence(
        values={kind: np.stack(values[kind]) for kind in parts},
        seconds={kind: sum(meter.seconds[part] for part in parts[kind]) for kind in parts},
        peak_memory_bytes={kind: max(meter.peak_bytes[part] for part in parts[kind]) for kind in parts},
        samples=n_examples,
        total_seconds=sum(meter.seconds.values()),
    )


def _parts(kind: str) -> tuple[str, ...]:
    """Return the passes that a kind is charged with."""
    if kind in _OBSERVED:
        return ("observe", _OBSERVED[kind])
    if kind in _REMOVED:
        return ("base_loss", kind if kind == "leave_one_out" else "greedy")
    return ("forward", "draws" if kind in _DRAWN else "labels")


def _observed(model, batches, logits, stack, rows, asked, chunk_size, meter) -> dict[str, np.ndarray]:
    """Return attention, block_influence and contiguous of one replicate."""
    attention, hidden = "attention" in asked, bool(asked & {"block_influence", "contiguous"})
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    with _eager(model) if attention else nullcontext(), torch.no_grad():
        for batch in batches:
            for piece, _ in batch.to(next(model.parameters()).device).chunks(chunk_size):
                real = real_positions(piece, stack.name)
                with (
                    meter.part("observe"),
                    block_states(rows if hidden else []) as states,
                    attention_states(model, stack) if attention else nullcontext([]) as probabilities,
                ):
                    logits(model, piece)
                if attention:
                    with meter.part("attention"):
                        each, usable = zip(*(concentration(one, real) for one in probabilities), strict=True)
                        found["attention"].append(torch.stack(each, dim=1)[usable[0]])
                if hidden:
                    with meter.part("hidden"):
                        found["block_influence"].append(turning(states, real))
                        found["contiguous"].append(angular_distances(states, real))
    if attention and not sum(map(len, found["attention"])):
        raise EvidenceError(
            "no calibration example has a position that may look at two others",
            where="evidence attention",
            mend="use longer sequences, or leave out the selectors that need attention",
        )
    return {kind: torch.cat(each).mean(dim=0).cpu().numpy() for kind, each in found.items()}


def _gradients(model, batches, logits, rows, asked, rng, draws, chunk_size, meter) -> dict[str, np.ndarray]:
    """Return the Fisher, gradient and Taylor kinds of one replicate."""
    n_layers = len(rows)
    parameters = [parameter for block in rows for parameter in block.parameters()]
    labelled = bool(asked & set(_LABELLED))
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
                    keep_graph = bool(asked & set(_DRAWN))
                    losses = example_losses(scores, piece.labels, piece)
                    _add_labelled(sums, whole, recording, states, losses, parameters, n_layers, asked, keep_graph)
            if asked & set(_DRAWN):
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


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Run in eval mode with gradients enabled, and put each module's mode back."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.enable_grad():
            model.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _eager(model: nn.Module):
    current = backbone_of(model).config._attn_implementation
    if current != "eager":
        log.info("attention %r gives no probabilities: the attention evidence is measured with 'eager'", current)
    return with_attention(model, "eager")


def _stack(model: nn.Module, name: str | None) -> Stack:
    blocks(model, name)  # an unknown name, or none where there are several, ends here
    return next(stack for stack in stacks_of(model) if name in (None, stack.name))


def _check_kinds(kinds: Sequence[str]) -> Sequence[str]:
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise EvidenceError(f"unknown evidence kinds {unknown}", mend=f"use some of {', '.join(KINDS)}")
    return kinds


def _check_size(replicates: Sequence[Sequence[CalibrationBatch]], samples: int | None) -> int:
    sizes = [sum(batch.n_rows for batch in batches) for batches in replicates]
    needed = 1 if samples is None else samples
    if not sizes or min(sizes) < needed:
        raise EvidenceError(
            f"the calibration samples have {sizes or 'no'} examples, fewer than the {needed} asked for",
            where="evidence.samples",
            mend=f"set evidence.samples to at most {min(sizes, default=0)}, or give more training data",
        )
    for batch in (batch for batches in replicates for batch in batches):
        if len(torch.unique(batch.example)) != batch.n_rows:
            raise EvidenceError(
                "a calibration example has no target", where="calibration batch", mend="leave out rows without targets"
            )
    return min(sizes)


def _check_parameters(model: nn.Module, rows: Sequence[nn.Module]) -> None:
    for layer, block in enumerate(rows):
        for name, parameter in block.named_parameters():
            if not parameter.is_floating_point() or getattr(backbone_of(model), "is_quantized", False):
                raise EvidenceError(
                    f"parameter {name} of block {layer} is quantized and has no gradient",
                    where="evidence from gradients",
                    mend="load the teacher in float32 or bfloat16, or use selectors that need no gradients",
                )
            if not parameter.requires_grad:
                raise EvidenceError(
                    f"parameter {name} of block {layer} is frozen and has no gradient",
                    where="evidence from gradients",
                    mend="call requires_grad_(True) on the teacher, or use selectors that need no gradients",
                )


def _check_finite(kind: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        layers = sorted({int(index[0]) for index in np.argwhere(~np.isfinite(array))})
        raise EvidenceError(
            f"evidence {kind!r} is not finite in blocks {layers}",
            where="calibration data",
            mend="check that the teacher's training did not diverge, and measure in float32",
        )
