"""Where a training function runs: alone, or as one of several workers. It never imports Ray itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raydistill.config import Execution


def _ignore(_row: dict[str, Any], _checkpoint: Path | None) -> None:
    return None


@dataclass(frozen=True)
class RunContext:
    """What a training function knows of its surroundings.

    Attributes:
        rank: This worker, 0-based.
        world_size: Number of workers.
        device: Where the model lives.
        report: Called by every worker after every epoch with the epoch's numbers and, on rank 0, a
            checkpoint folder or None.
        resume_from: Folder of the last checkpoint, or None.
        checkpoint_folder: Where to put new ones; None where there are none.
        strategy: ``ddp`` (every worker holds the model) or ``fsdp`` (each holds a shard).
        graphs: Whether steps are replayed as CUDA graphs where they can be.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Callable[[dict[str, Any], Path | None], None] = _ignore
    resume_from: Path | None = None
    checkpoint_folder: Path | None = None
    strategy: str = "ddp"
    graphs: bool = True

    def as_asked(self, execution: Execution) -> RunContext:
        """Return this context with what a sweep says of how models are held and their steps are run."""
        return replace(self, strategy=execution.strategy, graphs=execution.cuda_graphs)

    @property
    def forward_tokens(self) -> int:
        """Positions that go through a recommender at a time, about, where no gradients are wanted.

        On a processor more of them would not stay in the core's cache.
        """
        return 2048 if self.device.type == "cpu" else 16384

    @property
    def is_first(self) -> bool:
        """Whether this worker writes what only one may write."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Return the sums over workers, in float64."""
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Return what every worker gave, in order of rank."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def barrier(self) -> None:
        """Wait until every worker is here."""
        if self.world_size > 1:
            dist.barrier()


def best_device() -> torch.device:
    """Return the accelerator that this process may use, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
