"""Evidence of how much each block matters, measured on calibration samples of the training data.

Kinds share passes, and each kind is charged with the whole of every pass it needs, as if it were the only one that is
measured, so that the cost of an arm hardly depends on the other arms of a sweep:

- ``forward``: one forward, which gives attention probabilities, hidden states and logits at once. It keeps a graph
  where any kind needs gradients, and runs under eager attention where ``attention`` is asked for; both make it a little
  dearer for the kinds that need neither. Charged to all but the kinds that skip blocks.
- ``attention``, ``hidden``: what is computed from these. Charged to attention; to block_influence and contiguous.
- ``labels``: one backward with the labels of the data, and per-example norms. Charged to every kind of gradients but
  the true Fisher.
- ``draws``: one backward and per-example norms for each draw of labels. Charged to the true Fisher.
- ``base_loss``: one forward; ``leave_one_out``: one for each block; ``greedy``: n (n + 1) / 2. Charged to the kinds
  that skip blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from raydistill.errors import EvidenceError
from raydistill.models import Stack, backbone_of, blocks, stacks_of, with_attention
from raydistill.seeding import stream
from raydistill.selectors import KINDS
from raydistill.training.calibration import CalibrationBatch, Logits, real_positions
from raydistill.training.context import RunContext
from raydistill.training.gradient_pass import DRAWN, GRADIENT_KINDS, GradientSums
from raydistill.training.meter import Meter
from raydistill.training.observation import Observations, attention_states, block_states, removal
from raydistill.training.per_example import recorded

__all__ = ["CalibrationBatch", "Evidence", "measure_evidence", "passes_of"]

log = logging.getLogger(__name__)

_OBSERVED = {"attention": "attention", "block_influence": "hidden", "contiguous": "hidden"}
_REMOVED = ("leave_one_out", "greedy", "greedy_loss")
_OF_ONE_FORWARD = {*_OBSERVED, *GRADIENT_KINDS}


@dataclass(frozen=True)
class Evidence:
    """What was measured, and what it cost.

    Attributes:
        values: By kind, ``Float64[replicates, layers]``, or ``[replicates, layers, layers]`` for ``contiguous``.
        pass_seconds: By pass, over all replicates.
        pass_peak_bytes: By pass, above what was in use before.
        samples: Examples in each replicate.
        attention: Attention implementation that ``forward`` ran with, which may not be the model's own; None where
            nothing needed it.
    """

    values: dict[str, np.ndarray]
    pass_seconds: dict[str, float]
    pass_peak_bytes: dict[str, int]
    samples: int
    attention: str | None = None

    @property
    def replicates(self) -> int:
        """Number of calibration samples."""
        return len(next(iter(self.values.values())))

    def seconds(self, *kinds: str) -> float:
        """Return what ``kinds`` would have taken without any other: the passes that they need, each once."""
        return sum(self.pass_seconds[name] for name in passes_of(*kinds))

    def peak_memory_bytes(self, *kinds: str) -> int:
        """Return the highest peak of the passes that ``kinds`` need."""
        return max((self.pass_peak_bytes[name] for name in passes_of(*kinds)), default=0)


def passes_of(*kinds: str) -> tuple[str, ...]:
    """Return the passes that evidence kinds are charged with, each once."""
    return tuple(dict.fromkeys(name for kind in kinds for name in _passes(kind)))


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
    chunk_targets: int | None = None,
    stack: str | None = None,
    context: RunContext | None = None,
) -> Evidence:
    """Return the evidence ``kinds`` of a model, in eval mode, one row for each calibration sample.

    The model comes back as it was: mode, attention implementation, gradients and random state. That the batches are
    of the training data only is the caller's duty.

    Several workers take the passes over the samples in turn, each whole, so that their number changes no bit.

    Args:
        model: A Hugging Face model of a known family, or a wrapper with one as its ``backbone``.
        batches_per_replicate: One sequence of batches for each calibration sample.
        logits: From model and batch to ``Float[targets, classes]``.
        kinds: Of :data:`raydistill.selectors.KINDS`; an empty sequence measures nothing.
        seed: For the labels that the true Fisher draws.
        samples: Examples that each replicate must have; None takes what is there.
        draws: Labels drawn for each target by the true Fisher; its value is the mean over them.
        chunk_size: Most examples in memory at a time; peak memory grows with it.
        chunk_targets: Most targets in memory at a time, each with a score for every class; None for no limit.
        stack: Which stack of blocks, where the model has several.
        context: Where this runs; every worker calls it, with the same model, and gets the whole.

    Raises:
        EvidenceError: One block, unknown kinds, too little data, frozen or quantized parameters, or values that are
            not finite, on whichever worker.
        ModelError: Unknown family or stack.
    """
    asked = set(_check_kinds(kinds))
    chosen = _stack(model, stack)
    rows = list(blocks(model, chosen.name))
    if len(rows) < 2:
        raise EvidenceError(
            "a model of one block has no layers to choose from", where=f"stack {chosen.name!r}", mend="use a deeper one"
        )
    n_examples = _check_size(batches_per_replicate, samples)
    if asked & set(GRADIENT_KINDS):
        _check_parameters(model, rows)
    device = next(model.parameters()).device
    own = backbone_of(model).config._attn_implementation
    if "attention" in asked and own != "eager":
        log.warning("attention %r gives no probabilities: the evidence is measured with 'eager'", own)
    cut = {"size": chunk_size, "targets": chunk_targets}

    def measured(work: str, replicate: int, meter: Meter) -> dict[str, np.ndarray]:
        batches = batches_per_replicate[replicate]
        if work == "removal":
            pieces = [piece for batch in batches for piece, _ in batch.to(device).chunks(**cut)]
            found = removal(model, pieces, logits, chosen, len(rows), asked, meter)
        else:
            rng = stream(seed, "evidence", replicate)
            found = _of_one_forward(model, batches, logits, chosen, rows, asked, rng, draws, cut, meter)
        for kind in asked & set(found):
            _check_finite(kind, found[kind])
        return found

    with _evaluating(model), Meter(device) as meter:
        found = _in_turns(_works(asked, len(batches_per_replicate)), measured, meter, context or RunContext())
    return Evidence(
        values={kind: np.stack([row[kind] for row in found]) for kind in sorted(asked)},
        pass_seconds=dict(meter.seconds),
        pass_peak_bytes=dict(meter.peak_bytes),
        samples=n_examples,
        attention=("eager" if "attention" in asked else own) if asked & _OF_ONE_FORWARD else None,
    )


def _works(asked: set[str], replicates: int) -> list[tuple[str, int]]:
    """Return what is to be measured, each of which one worker can do alone: a kind of work and a replicate."""
    kinds = [name for name, some in (("removal", set(_REMOVED)), ("forward", _OF_ONE_FORWARD)) if asked & some]
    return [(name, replicate) for name in kinds for replicate in range(replicates)]


def _in_turns(
    works: list[tuple[str, int]], measured: Callable[..., dict[str, np.ndarray]], meter: Meter, context: RunContext
) -> list[dict[str, np.ndarray]]:
    """Return what was measured in each replicate, and add every worker's costs to the meter; all call it together."""
    own: list[tuple[int, dict[str, np.ndarray]]] = []
    problem = None
    try:
        for work, replicate in works[context.rank :: context.world_size]:
            own.append((replicate, measured(work, replicate, meter)))
    except EvidenceError as error:  # the others wait for this worker: they have to be told
        problem = error
    shares = context.gather((problem, own, dict(meter.seconds), dict(meter.peak_bytes)))
    for problem, *_ in shares:
        if problem is not None:
            raise problem
    meter.replace([(seconds, peaks) for _, _, seconds, peaks in shares])
    found: list[dict[str, np.ndarray]] = [{} for _ in {replicate for _, replicate in works}]
    for replicate, values in (one for _, some, _, _ in shares for one in some):
        found[replicate] |= values
    return found


def _passes(kind: str) -> tuple[str, ...]:
    if kind in _OBSERVED:
        return ("forward", _OBSERVED[kind])
    if kind in _REMOVED:
        return ("base_loss", kind if kind == "leave_one_out" else "greedy")
    return ("forward", "draws" if kind in DRAWN else "labels")


def _of_one_forward(model, batches, logits, stack, rows, asked, rng, draws, cut, meter) -> dict[str, np.ndarray]:
    """Return every kind of one replicate but those that skip blocks, from one forward pass over each chunk."""
    attention, gradients = "attention" in asked, bool(asked & set(GRADIENT_KINDS))
    watched = rows if asked & {"block_influence", "contiguous", "taylor_block"} else []
    observations, sums = Observations(asked, meter), GradientSums(rows, asked, meter)
    device = next(model.parameters()).device
    with with_attention(model, "eager") if attention else nullcontext(), torch.set_grad_enabled(gradients):
        for batch in batches:
            uniforms = torch.from_numpy(rng.random((draws, len(batch.labels)))).to(device)
            for piece, places in batch.to(device).chunks(**cut):
                with (
                    meter.part("forward"),
                    recorded(rows if gradients else [], piece.n_rows) as recording,
                    block_states(watched) as states,
                    attention_states(model, stack) if attention else nullcontext([]) as probabilities,
                ):
                    scores = logits(model, piece)
                if asked & set(_OBSERVED):
                    observations.add(real_positions(piece, stack.name), probabilities, states)
                if gradients:
                    sums.add(piece, scores, recording, states, uniforms[:, places])
    return observations.values() | (sums.values() if gradients else {})


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
