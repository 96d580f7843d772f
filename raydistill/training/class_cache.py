"""The teacher's class logits for every training text, computed once for the whole sweep.

Hidden states, pooled, are kept beside them only where a sweep distils those too: they are wide, logits are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raydistill.data.preference import TextExamples
from raydistill.models.classifier import TextClassifier
from raydistill.training.context import RunContext
from raydistill.training.rows import write_rows
from raydistill.training.stored_arrays import open_arrays

LOGITS, HIDDEN = "logits", "hidden"


class ClassCache:
    """Logits ``[slots, classes]`` of the teacher and, where they were asked for, pooled hidden states ``[slots, dim]``.

    Args:
        logits: float32, one row a training text.
        hidden: float16, or None.
    """

    def __init__(self, logits: np.ndarray, hidden: np.ndarray | None = None) -> None:
        self.logits = logits
        self.hidden = hidden

    def __len__(self) -> int:
        return len(self.logits)

    def logits_of(self, slots: Int64[Tensor, " targets"]) -> Float[Tensor, "targets classes"]:
        """Return the logits of some slots."""
        return torch.from_numpy(self.logits[slots.numpy()])

    def hidden_of(self, slots: Int64[Tensor, " targets"]) -> Float[Tensor, "targets dim"] | None:
        """Return the hidden states of some slots, in half precision; None where there are none."""
        return None if self.hidden is None else torch.from_numpy(self.hidden[slots.numpy()])

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> ClassCache:
        """Return the cache in ``folder``, memory-mapped.

        Args:
            folder: What :func:`build_class_cache` wrote.
            verify: Whether to compare the files with their hashes; their sizes are always compared.

        Raises:
            CorruptArtifactError: It is absent, half written or changed.
        """
        arrays = open_arrays(folder, verify=verify)
        return cls(arrays[LOGITS], arrays.get(HIDDEN))


def build_class_cache(
    teacher: TextClassifier,
    examples: TextExamples,
    folder: Path,
    *,
    with_hidden: bool,
    context: RunContext | None = None,
    batch_tokens: int = 4096,
) -> None:
    """Run the teacher once over all training texts, in eval mode, and write its outputs to ``folder``.

    Each worker computes its own share; the first one writes.

    Raises:
        ModelError: An output is not finite, or a hidden state does not fit half precision.
    """
    context = context or RunContext()
    outputs = _outputs(teacher.eval(), examples, batch_tokens, with_hidden, context)
    write_rows(folder, outputs, examples.n_slots, context)


@torch.inference_mode()
def _outputs(
    teacher: TextClassifier, examples: TextExamples, batch_tokens: int, with_hidden: bool, context: RunContext
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    for batch in examples.ordered(batch_tokens, rank=context.rank, world_size=context.world_size):
        slots = batch.slots.numpy()
        batch = batch.to(context.device)
        hidden = teacher.hidden(batch.input_ids, batch.attention_mask)
        rows = {LOGITS: teacher.logits(hidden).float().cpu().numpy()}
        if with_hidden:
            rows[HIDDEN] = hidden.half().cpu().numpy()
        yield slots, rows
