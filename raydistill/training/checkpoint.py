"""Checkpoints of a training run: tensors as safetensors, numbers as JSON, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raydistill.errors import CorruptArtifactError
from raydistill.records import atomic_write, sha256_file, write_json

TENSORS, STATE = "state.safetensors", "state.json"


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write tensors and numbers to ``folder``; the JSON, with the tensors' hash, last.

    Raises:
        RunDirectoryError: The folder cannot be written, or the disk is full.
    """
    # Copies, since tensors that share memory are refused.
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    with atomic_write(folder / TENSORS) as temporary:
        try:
            save_file(own, temporary)
        except SafetensorError as error:
            raise OSError(str(error)) from error
    write_json(folder / STATE, {"sha256": sha256_file(folder / TENSORS), "state": state})


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and numbers in ``folder``.

    Raises:
        CorruptArtifactError: It is absent, half written or changed.
    """
    try:
        content = json.loads((folder / STATE).read_text())
        if sha256_file(folder / TENSORS) != content["sha256"]:
            raise CorruptArtifactError("the checkpoint's tensors do not match their hash", where=str(folder))
        return load_file(folder / TENSORS), content["state"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CorruptArtifactError(f"the checkpoint cannot be read: {error}", where=str(folder)) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as flat named tensors."""
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, Tensor],
    *,
    share_of: Callable[[Tensor, Tensor], Tensor] = lambda value, _parameter: value,
) -> None:
    """Put back what :func:`optimizer_tensors` took.

    Args:
        optimizer: Over the same parameters.
        tensors: Whole tensors by name; others than the optimizer's are passed over.
        share_of: Gives of a moment the part that belongs to a parameter, where workers hold shares.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            is_moment = value.shape == parameters[int(index)].shape and name != "step"
            state.setdefault(int(index), {})[name] = share_of(value, parameters[int(index)]) if is_moment else value
    content = optimizer.state_dict()
    content["state"] = state
    optimizer.load_state_dict(content)
