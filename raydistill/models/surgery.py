"""Smaller models made of a larger one's own blocks."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from operator import index as as_index

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from raydistill.errors import ModelError
from raydistill.models.families import Family, LayerMaps, backbone_of, blocks, depth, family_of, stacks_of

LayerMap = Sequence[int] | Mapping[str, Sequence[int]]


def keep_layers(model: PreTrainedModel, layer_map: LayerMap, *, teacher_hash: str | None = None) -> PreTrainedModel:
    """Return a model of the same class that has only the blocks in ``layer_map``, with the teacher's weights.

    It computes bit for bit what the teacher computes when its other blocks are skipped (where a family has to fold a
    correction into the weights, as GPT-2 scaled by layer index does, equal but for rounding); with all blocks, bit for
    bit what the teacher computes. It has the teacher's dtype, device and mode, shares no memory with it, and saves and
    loads as any model of its class. ``config.raydistill`` keeps the layer map and the teacher's hash.

    Args:
        model: The teacher, a base model or one with a task head; it is not changed.
        layer_map: Indices of the blocks to keep, ascending, 0 being the first after the embeddings. For a model of
            several stacks a mapping from stack to indices; a stack that is not named is kept whole.
        teacher_hash: What :func:`model_hash` gives for the teacher, where the caller has it already.

    Raises:
        ModelError: Unknown family, quantized weights, a single block, or a layer map that does not fit.
    """
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"{type(model).__name__} is not a Hugging Face model itself",
            mend="call its own keep_layers where it has one, or cut the Hugging Face model in it",
        )
    family = family_of(model)
    _refuse_unusable(model)
    layer_maps = check_layer_map(model, layer_map)
    config = _sliced_config(model, family, layer_maps)
    record = {
        "layer_map": layer_maps if len(layer_maps) > 1 else next(iter(layer_maps.values())),
        "teacher": teacher_hash or model_hash(model),
    }
    earlier = getattr(model.config, "raydistill", None)
    config.raydistill = record if earlier is None else {**record, "teacher_raydistill": earlier}

    with torch.device("meta"):
        student = type(model)(config, **family.constructor_arguments(model))
    _fill(student, model, family, layer_maps)
    if getattr(model, "generation_config", None) is not None:
        student.generation_config = copy.deepcopy(model.generation_config)
    if family.mend is not None:
        family.mend(student, layer_maps)
    return student.train(model.training)


def check_layer_map(model: nn.Module, layer_map: LayerMap) -> LayerMaps:
    """Return the layer map in full: for every stack of the model, the indices that it keeps.

    Raises:
        ModelError: Empty, out of range, not ascending, an unknown stack, or a model that has one block.
    """
    names = [stack.name for stack in stacks_of(model)]
    if not isinstance(layer_map, Mapping):
        if len(names) > 1:
            raise ModelError(
                f"{type(backbone_of(model)).__name__} has several stacks of blocks, and the layer map names none",
                mend=f"give a mapping from stack ({', '.join(names)}) to indices",
            )
        layer_map = {names[0]: layer_map}
    unknown = sorted(set(layer_map) - set(names))
    if unknown:
        raise ModelError(f"the layer map names the stack '{unknown[0]}'", mend=f"this model has {', '.join(names)}")
    if not layer_map:
        raise ModelError("the layer map is empty", mend="name at least one block to keep")
    return {name: _checked_indices(layer_map.get(name), depth(model, name), name) for name in names}


def _checked_indices(indices: Sequence[int] | None, n_layers: int, stack: str) -> list[int]:
    if indices is None:
        return list(range(n_layers))
    where = f"stack '{stack}' with {n_layers} blocks, layer map {list(indices)}"
    if n_layers < 2:
        raise ModelError("a model of one block has no layers to choose from", where=where, mend="use a deeper teacher")
    try:
        kept = [as_index(i) for i in indices]
    except TypeError as error:
        raise ModelError("a layer map holds whole numbers", where=where, mend="give indices such as [0, 3]") from error
    if not kept:
        raise ModelError("the layer map is empty", where=where, mend="keep at least one block")
    if kept[0] < 0 or max(kept) >= n_layers:
        raise ModelError("the layer map is out of range", where=where, mend=f"use indices from 0 to {n_layers - 1}")
    if any(later <= earlier for earlier, later in pairwise(kept)):
        raise ModelError("the layer map is not strictly ascending", where=where, mend=f"{sorted(set(kept))} would be")
    return kept


def _refuse_unusable(model: PreTrainedModel) -> None:
    quantized = getattr(model, "is_quantized", False) or getattr(model.config, "quantization_config", None) is not None
    if quantized or any(not p.is_floating_point() for p in model.parameters()):
        raise ModelError(
            "the model's weights are quantized, and layers cannot be cut out of packed weights exactly",
            mend="load the checkpoint in float32, float16 or bfloat16, and quantize the student afterwards",
        )
    if getattr(model.config, "is_heterogeneous", False):
        raise ModelError("the model's blocks differ in shape (per_layer_config)", mend="use a teacher of equal blocks")
    if any(p.is_meta for p in model.parameters()):
        raise ModelError("the model's weights are not loaded (meta device)", mend="load it without offloading to disk")


def _sliced_config(model: PreTrainedModel, family: Family, layer_maps: LayerMaps) -> PreTrainedConfig:
    """Return a copy of the model's configuration with the new depths and per-layer lists."""
    config = copy.deepcopy(model.config)
    # Lists first: the configuration checks that depth and lists agree when it is saved and loaded.
    for stack in stacks_of(model):
        kept = layer_maps[stack.name]
        for key in stack.per_layer_keys:
            values = getattr(config, key, None)
            if values is not None:
                setattr(config, key, [values[i] for i in kept])
        setattr(config, stack.depth_key, len(kept))
    if family.slice_config is not None:
        family.slice_config(config, layer_maps)
    return config


def _fill(student: PreTrainedModel, teacher: PreTrainedModel, family: Family, layer_maps: LayerMaps) -> None:
    """Give the student copies of the teacher's parameters and buffers; what is tied in the teacher stays tied."""
    prefixes = {f"{_name_of(teacher, blocks(teacher, stack))}.": kept for stack, kept in layer_maps.items()}
    parameters = dict(teacher.named_parameters(remove_duplicate=False))
    buffers = dict(teacher.named_buffers(remove_duplicate=False))
    copies: dict[int, Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        if id(tensor) not in copies:
            clone = tensor.detach().clone()
            copies[id(tensor)] = (
                nn.Parameter(clone, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else clone
            )
        return copies[id(tensor)]

    for sources, names in (
        (parameters, [name for name, _ in student.named_parameters(remove_duplicate=False)]),
        (buffers, [name for name, _ in student.named_buffers(remove_duplicate=False)]),
    ):
        for name in names:
            owner, _, leaf = name.rpartition(".")
            setattr(student.get_submodule(owner), leaf, copied(sources[_source_name(name, prefixes, family)]))


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _source_name(name: str, prefixes: dict[str, list[int]], family: Family) -> str:
    """Return the teacher's name of the tensor that the student calls ``name``."""
    if any(part in name for part in family.first_block_parameters):
        return name
    for prefix, kept in prefixes.items():
        if name.startswith(prefix):
            position, _, rest = name.removeprefix(prefix).partition(".")
            return f"{prefix}{kept[int(position)]}.{rest}"
    return name


@contextmanager
def skip_layers(model: nn.Module, layers: LayerMap) -> Iterator[None]:
    """Run the full model without some blocks: inside, their input passes through unchanged.

    Where the block gives more than a hidden state (a key-value cache to fill, T5's position bias for the blocks after
    it), it still runs and only its effect on the hidden state is dropped.

    Args:
        model: A Hugging Face model or a wrapper with a ``backbone``.
        layers: Indices of the blocks to skip; for a model of several stacks a mapping from stack to indices.

    Raises:
        ModelError: Unknown family, stack or index.
    """
    by_stack = layers if isinstance(layers, Mapping) else {None: layers}
    truly = family_of(model).independent_blocks
    skipped = []
    for stack, indices in by_stack.items():
        rows = blocks(model, stack)
        for i in indices:
            if not 0 <= i < len(rows):
                raise ModelError(f"there is no block {i} to skip", mend=f"use indices from 0 to {len(rows) - 1}")
            skipped.append(rows[i])
    try:
        for block in skipped:
            block.forward = _passing(block.forward, truly)
        yield
    finally:
        for block in skipped:
            block.__dict__.pop("forward", None)


def _passing(forward, truly: bool):
    """Return a forward that gives its input back as the hidden state."""

    def passing(hidden_states: Tensor, *args, **kwargs):
        if truly and not any(isinstance(value, Cache) for value in (*args, *kwargs.values())):
            return hidden_states
        output = forward(hidden_states, *args, **kwargs)
        return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states

    return passing


@contextmanager
def with_attention(model: nn.Module, implementation: str) -> Iterator[None]:
    """Run a model with another attention implementation, such as ``"eager"``, which gives the probabilities.

    Args:
        model: A Hugging Face model or a wrapper with a ``backbone``.
        implementation: A name that ``attn_implementation`` takes in transformers.

    Raises:
        ModelError: transformers does not know the implementation.
    """
    known = ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]
    if implementation not in known:
        raise ModelError(f"unknown attention implementation '{implementation}'", mend=f"use one of {', '.join(known)}")
    # The stacks of an encoder-decoder have configurations of their own.
    parts = [module for module in backbone_of(model).modules() if isinstance(module, PreTrainedModel)]
    configs = {id(part.config): part.config for part in parts}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = implementation
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


def model_hash(model: nn.Module) -> str:
    """Return 32 hex digits that depend on the name, dtype, shape and content of everything in the state dict."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(content.numpy()))
    return digest.hexdigest()
