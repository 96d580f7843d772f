"""What the rest of raydistill must know about a model family, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

LayerMaps = dict[str, list[int]]
"""For each stack by name, the indices of the blocks that are kept, ascending."""


@dataclass(frozen=True)
class Stack:
    """One row of Transformer blocks inside a model.

    Args:
        name: What layer maps call it, such as ``"encoder"``.
        path: Dotted path of its ``ModuleList``, from the base model (the model without its task head).
        depth_key: Configuration key that holds the number of blocks.
        per_layer_keys: Configuration keys that hold a list with one entry a block.
        attentions: Output fields that may hold this stack's attention probabilities, the first present one counts.
    """

    name: str
    path: str
    depth_key: str = "num_hidden_layers"
    per_layer_keys: tuple[str, ...] = ()
    attentions: tuple[str, ...] = ("attentions",)


@dataclass(frozen=True)
class Size:
    """How large a recommender built from scratch shall be.

    Args:
        vocab_size: Rows of the item table: padding, items, mask.
        layers: Number of blocks.
        hidden: Width of the residual stream.
        heads: Attention heads; must divide ``hidden``.
        intermediate: Width inside the feed-forward part.
        dropout: Probability for embeddings, attention and residual branches.
        max_length: Longest sequence in items.
    """

    vocab_size: int
    layers: int
    hidden: int
    heads: int
    intermediate: int
    dropout: float
    max_length: int


def _no_arguments(model: PreTrainedModel) -> dict[str, Any]:
    return {}


def _no_limit(config: PreTrainedConfig) -> int | None:
    return None


def position_limit(config: PreTrainedConfig) -> int | None:
    """Return the longest sequence that the position table (or the rotary training length) covers."""
    return config.max_position_embeddings


def unit_scale(config: PreTrainedConfig) -> float:
    """Return 1: the final hidden states meet the item table as they are."""
    return 1.0


@dataclass(frozen=True)
class Family:
    """Where a family of Hugging Face models keeps its blocks, and what surgery has to mend.

    Args:
        name: What sweeps call it.
        model_types: Values of ``config.model_type`` that belong to it.
        base_class: Name in ``transformers`` of the class that a recommender of this family is built from.
        stacks: Every row of blocks that a model of this family may have.
        causal: Whether its base model attends to the past only.
        recommender_config: From a :class:`Size` and further configuration keys to a configuration.
        dropout_keys: Configuration keys that set a dropout probability.
        attention: The fastest attention implementation that the family's models run everywhere.
        base_arguments: Constructor arguments of the base class for a recommender.
        constructor_arguments: From a model to the constructor arguments that it was built with and that its
            configuration does not tell.
        position_limit: From a configuration to the longest sequence, or None where nothing limits it.
        output_scale: From a configuration to the factor between final hidden states and a tied output table.
        table_std: From a configuration to the standard deviation of a fresh item table.
        first_block_parameters: Parts of parameter names that exist in block 0 only and serve the whole stack, so they
            stay in block 0 whichever block goes there.
        independent_blocks: Whether a block needs nothing from the one before it but the hidden state.
        slice_config: Mends configuration keys beyond depth and per-layer lists; gets the new configuration and the
            layer maps.
        mend: Mends the new model; gets it and the layer maps.
        pad_with_zero: Makes item 0 the padding in a pretrained model; gets the model.
        poolings: How a text classifier may read one state off a sequence, the usual one first.
        answer_class: Name in ``transformers`` of the base class with a decoder, where there is one.
        generation_class: Name of the class that has the output table of ``answer_class`` too.
    """

    name: str
    model_types: tuple[str, ...]
    base_class: str
    stacks: tuple[Stack, ...]
    causal: bool
    recommender_config: Callable[..., PreTrainedConfig]
    dropout_keys: tuple[str, ...]
    attention: str = "sdpa"
    base_arguments: Mapping[str, Any] = field(default_factory=dict)
    constructor_arguments: Callable[[PreTrainedModel], dict[str, Any]] = _no_arguments
    position_limit: Callable[[PreTrainedConfig], int | None] = position_limit
    output_scale: Callable[[PreTrainedConfig], float] = unit_scale
    table_std: Callable[[PreTrainedConfig], float] = lambda config: config.initializer_range
    first_block_parameters: tuple[str, ...] = ()
    independent_blocks: bool = True
    slice_config: Callable[[PreTrainedConfig, LayerMaps], None] | None = None
    mend: Callable[[PreTrainedModel, LayerMaps], None] | None = None
    pad_with_zero: Callable[[PreTrainedModel], None] | None = None
    poolings: tuple[str, ...] = ("mean", "first")
    answer_class: str | None = None
    generation_class: str | None = None
