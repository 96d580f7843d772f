"""What evidence sees of the data, whatever the task: rows of inputs, targets that belong to rows, losses by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from raydistill.errors import EvidenceError

Logits = Callable[[nn.Module, "CalibrationBatch"], Tensor]

SCORES = 1 << 26
"""Logits of one chunk of examples, about: a catalogue of 100,000 items has as many with 670 targets."""

SCRATCH = 1 << 22
"""Probabilities in double precision that labels are drawn from at a time."""


@dataclass(frozen=True)
class CalibrationBatch:
    """Examples of the training data, and the targets that they are asked for.

    Attributes:
        inputs: What the model takes; each tensor has one row for each example.
        example: Row that each target belongs to; each row has at least one.
        labels: Class of each target.
    """

    inputs: dict[str, Tensor]
    example: Int[Tensor, " targets"]
    labels: Int[Tensor, " targets"]

    @property
    def n_rows(self) -> int:
        """Number of examples."""
        return len(next(iter(self.inputs.values())))

    def chunks(
        self, size: int, *, targets: int | None = None
    ) -> Iterator[tuple[CalibrationBatch, Int[Tensor, " chunk_targets"]]]:
        """Yield batches of whole examples, each with the places of its targets in this batch.

        Args:
            size: Most examples of a batch.
            targets: Most targets of a batch, unless one example has more; None for no limit.
        """
        for start, stop in self._cuts(size, targets):
            inputs = {name: tensor[start:stop] for name, tensor in self.inputs.items()}
            places = ((self.example >= start) & (self.example < stop)).nonzero().flatten()
            yield CalibrationBatch(inputs, self.example[places] - start, self.labels[places]), places

    def _cuts(self, size: int, targets: int | None) -> Iterator[tuple[int, int]]:
        if targets is None:
            yield from ((start, start + size) for start in range(0, self.n_rows, size))
            return
        start = total = 0
        for row, count in enumerate(torch.bincount(self.example, minlength=self.n_rows).tolist()):
            if row > start and (row - start == size or total + count > targets):
                yield start, row
                start, total = row, 0
            total += count
        yield start, self.n_rows

    def to(self, device: torch.device) -> CalibrationBatch:
        """Return the batch on a device."""
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return CalibrationBatch(inputs, self.example.to(device), self.labels.to(device))


def example_losses(
    logits: Float[Tensor, "targets classes"], labels: Int[Tensor, " targets"], batch: CalibrationBatch
) -> Float[Tensor, " examples"]:
    """Return each example's mean cross-entropy over its own targets."""
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    sums = losses.new_zeros(batch.n_rows).index_add(0, batch.example, losses)
    return sums / torch.bincount(batch.example, minlength=batch.n_rows)


def draw_labels(
    logits: Float[Tensor, "targets classes"], uniforms: Float[Tensor, "*draws targets"]
) -> Int[Tensor, "*draws targets"]:
    """Return labels for each target, drawn from the model's softmax by inverting its distribution function.

    A target's draw depends on its own uniform number in [0, 1) alone, not on how examples are cut into chunks.
    """
    columns = uniforms.reshape(-1, len(logits)).T
    rows = max(1, SCRATCH // logits.shape[-1])
    # A few targets at a time: in double precision a whole chunk would take several times its logits.
    drawn = [_inverted(*piece) for piece in zip(logits.detach().split(rows), columns.split(rows), strict=True)]
    return torch.cat(drawn).T.reshape(uniforms.shape)


def _inverted(
    logits: Float[Tensor, "targets classes"], uniforms: Float[Tensor, "targets draws"]
) -> Int[Tensor, "targets draws"]:
    """Return where the distribution function of each target's softmax passes its uniform numbers."""
    cumulative = logits.double().softmax(dim=-1).cumsum_(dim=-1)
    heights = uniforms.double() * cumulative[:, -1:]
    places = torch.searchsorted(cumulative, heights.contiguous(), right=True)
    return places.clamp_(max=logits.shape[-1] - 1)


def real_positions(batch: CalibrationBatch, stack: str) -> Bool[Tensor, "examples seq"]:
    """Return where a stack's input holds something: its attention mask where there is one, else ids other than 0.

    Raises:
        EvidenceError: The inputs have neither a mask nor ids.
    """
    prefix = "decoder_" if stack == "decoder" else ""
    mask, ids = (batch.inputs.get(f"{prefix}{name}") for name in ("attention_mask", "input_ids"))
    if mask is None and ids is None:
        raise EvidenceError(
            "there is no telling which positions are real",
            where="calibration batch",
            mend=f"give {prefix}attention_mask or {prefix}input_ids; there is: {', '.join(batch.inputs)}",
        )
    return mask.bool() if mask is not None else ids.ne(0)
