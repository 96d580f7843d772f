"""What several workers change in training: nothing for one, gradients summed (ddp), or shares of everything (fsdp).

With ``fsdp`` a copy of the model is sharded and trained, while the model itself stays whole on the host and gets the
best weights at the end; it must then fit a device without gradients and optimizer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import TypeVar

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from raydistill.training.context import RunContext

T = TypeVar("T")

_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)
"""Newer releases of torch warn of the older name."""


def is_sharded(context: RunContext) -> bool:
    """Return whether each worker holds a share of the model only."""
    return context.world_size > 1 and context.strategy == "fsdp"


def place(model: nn.Module, context: RunContext) -> nn.Module:
    """Return the model that is trained: the model on its device, or, to be sharded, a copy of it."""
    return copy.deepcopy(model).to(context.device) if is_sharded(context) else model.to(context.device)


def wrap(objective: nn.Module, context: RunContext) -> nn.Module:
    """Return the objective whose backward pass reaches all workers."""
    if context.world_size == 1:
        return objective
    if is_sharded(context):
        from raydistill.training.fsdp import shard

        return shard(objective)
    device_ids = [context.device] if context.device.type == "cuda" else None
    # Buffers, such as the texts that an item table is a map of, are the same everywhere and stay so.
    # Gradients lie where they are summed: no second copy of all of them, and no copying to and fro.
    return DistributedDataParallel(
        objective, device_ids=device_ids, gradient_as_bucket_view=True, **{_SYNC_BUFFERS: False}
    )


def synchronized(wrapped: nn.Module, is_last: bool) -> AbstractContextManager:
    """Sum gradients over workers in the last backward pass of a step only, where they are summed at all."""
    if isinstance(wrapped, DistributedDataParallel) and not is_last:
        return wrapped.no_sync()
    # Shares are summed in every pass: to keep whole gradients would need the memory that sharding saves.
    return nullcontext()


def in_step(parts: Sequence[list[T]], n_parts: int, context: RunContext) -> list[tuple[list[T], float]]:
    """Return the parts of a step with their weights, as many in every worker where each pass gathers shares.

    A worker whose share of a small last step has fewer parts runs its first one again, with weight 0.
    """
    weighted = [(part, 1.0) for part in parts]
    if is_sharded(context):
        weighted += [(parts[0], 0.0)] * (n_parts - len(parts))
    return weighted


@contextmanager
def callable_alone(wrapped: nn.Module) -> Iterator[None]:
    """Let each worker call the model on its own, as often as it needs to, as in ranking, while the block runs."""
    shares = [module for module in wrapped.modules() if isinstance(module, FSDPModule)]
    for module in shares:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in shares:
            module.reshard()
            module.set_reshard_after_forward(module is not wrapped, recurse=False)


def whole(tensors: Mapping[str, Tensor], *, kept: bool = True) -> dict[str, Tensor]:
    """Return tensors with every share gathered; all workers call it together.

    One after the other and to the host, since a device has no room for all of them.

    Args:
        tensors: By name.
        kept: Whether this worker wants them; nothing is returned where it does not.
    """
    result = {}
    for name, value in tensors.items():
        gathered = value.full_tensor().cpu() if isinstance(value, DTensor) else value
        if kept:
            result[name] = gathered
    return result


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """Return this worker's share of a whole tensor, sharded as ``like`` is; the tensor itself where that is whole."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
