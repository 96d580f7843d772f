"""The teacher's outputs, computed once for the whole sweep.

Stored is the teacher's final hidden state at every target position, in half precision and
memory-mapped, together with its output embedding. From the two follows the whole distribution over
the catalogue at any temperature, for one matrix product: a few megabytes instead of the
``targets x items`` logits. All processes of a machine share the file through the page cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from raydistill.data.batches import TrainingExamples
from raydistill.models.recommender import Recommender
from raydistill.training.context import RunContext
from raydistill.training.rows import write_rows
from raydistill.training.stored_arrays import open_arrays

HIDDEN, WEIGHT = "hidden", "output_weight"


class TeacherCache:
    """Hidden states ``[slots, dim]`` of the teacher and its output embedding ``[items, dim]``.

    Args:
        hidden: float16, one row a target position, in the order of the examples' slots.
        output_weight: float32, row c belongs to class c.
    """

    def __init__(self, hidden: np.ndarray, output_weight: np.ndarray) -> None:
        self.hidden = hidden
        self.output_weight = torch.from_numpy(output_weight)

    def __len__(self) -> int:
        return len(self.hidden)

    def rows(self, slots: Int64[Tensor, " targets"]) -> Float[Tensor, "targets dim"]:
        """Return the hidden states of some slots, in half precision."""
        return torch.from_numpy(self.hidden[slots.numpy()])

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> TeacherCache:
        """Return the cache in ``folder``, memory-mapped.

        Args:
            folder: What :func:`build_teacher_cache` wrote.
            verify: Whether to compare the files with their hashes; their sizes are always compared.

        Raises:
            CorruptArtifactError: It is absent, half written or changed.
        """
        hidden = open_arrays(folder, verify=verify)[HIDDEN]
        # torch takes only what could be written to; a page that were written would be this process's own.
        return cls(hidden, np.load(folder / f"{WEIGHT}.npy", mmap_mode="c"))


def build_teacher_cache(
    teacher: Recommender,
    examples: TrainingExamples,
    folder: Path,
    *,
    context: RunContext | None = None,
    batch_tokens: int | None = None,
) -> TeacherCache:
    """Run the teacher once over all training targets, in eval mode, and return its cache, written to ``folder``.

    Each worker computes its own share.

    Args:
        teacher: Set to eval mode.
        examples: What students are trained on.
        folder: Of the cache.
        context: Where this runs.
        batch_tokens: Positions that go through the teacher at a time, about; what suits the device where None.

    Raises:
        ModelError: A hidden state does not fit half precision.
    """
    context = context or RunContext()
    weight = teacher.output_weight.detach().float().cpu().numpy()
    states = _states(teacher.eval(), examples, batch_tokens or context.forward_tokens, context)
    write_rows(folder, states, examples.n_slots, context, **{WEIGHT: weight})
    return TeacherCache.open(folder)


@torch.inference_mode()
def _states(
    teacher: Recommender, examples: TrainingExamples, batch_tokens: int, context: RunContext
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    table = teacher.table()
    share = {"rank": context.rank, "world_size": context.world_size}
    for pattern in range(examples.n_patterns):
        for batch in examples.ordered(batch_tokens, pattern=pattern, **share):
            slots = batch.slots.numpy()
            batch = batch.to(context.device)
            hidden = teacher.hidden(batch.input_ids, batch.attention_mask, table).flatten(0, 1)[batch.positions]
            yield slots, {HIDDEN: hidden.half().cpu().numpy()}
