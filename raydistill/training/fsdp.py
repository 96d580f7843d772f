"""Models that do not fit one device: each worker holds a share of every weight, gradient and optimizer moment.

FSDP2 (``torch.distributed.fsdp.fully_shard``): every block is gathered for its own forward and backward pass and
freed after it; what is outside the blocks, above all the item table, is gathered once a step.
"""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import fully_shard

from raydistill.models import blocks, stacks_of


def shard(objective: nn.Module) -> nn.Module:
    """Return the objective with the blocks of its model, and the rest of it, sharded over all workers, in place."""
    backbone = objective.model.backbone
    for stack in stacks_of(backbone):
        for block in blocks(backbone, stack.name):
            fully_shard(block)
    return fully_shard(objective)
