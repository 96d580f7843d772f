"""The table of model families, and where each keeps its blocks."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from raydistill.errors import ModelError
from raydistill.models.families.base import Family, LayerMaps, Size, Stack
from raydistill.models.families.bert import BERT
from raydistill.models.families.distilbert import DISTILBERT
from raydistill.models.families.gemma import GEMMA, GEMMA2, GEMMA3
from raydistill.models.families.gpt2 import GPT2
from raydistill.models.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from raydistill.models.families.roberta import ROBERTA
from raydistill.models.families.t5 import T5

__all__ = [
    "FAMILIES",
    "Family",
    "LayerMaps",
    "Size",
    "Stack",
    "attention_probabilities",
    "backbone_of",
    "blocks",
    "depth",
    "family_of",
    "stack_of",
    "stacks_of",
]

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "distilbert": DISTILBERT,
    "gpt2": GPT2,
    "t5": T5,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
}

_REFUSED = {
    "albert": "ALBERT runs one shared block many times, so there are no layers to choose from",
    "gemma3": "this Gemma 3 reads images too; its text model alone (type gemma3_text) can be cut",
}


def backbone_of(model: nn.Module) -> PreTrainedModel:
    """Return the Hugging Face model in ``model``: itself, or what a wrapper such as a recommender calls its backbone.

    Raises:
        ModelError: There is no Hugging Face model.
    """
    inner = getattr(model, "backbone", model)
    if not isinstance(inner, PreTrainedModel):
        raise ModelError(
            f"{type(model).__name__} is not a Hugging Face model",
            mend="give a transformers.PreTrainedModel, or a module that has one as its attribute `backbone`",
        )
    return inner


def family_of(model: nn.Module | PreTrainedConfig) -> Family:
    """Return the family of a model or of a configuration.

    Raises:
        ModelError: The architecture is not in the table, or cannot be cut into layers.
    """
    config = model if isinstance(model, PreTrainedConfig) else backbone_of(model).config
    for family in FAMILIES.values():
        if config.model_type in family.model_types:
            return family
    if config.model_type in _REFUSED:
        raise ModelError(_REFUSED[config.model_type], mend=f"use one of {', '.join(FAMILIES)}")
    raise ModelError(
        f"models of type '{config.model_type}' are not supported",
        mend=(
            f"use one of {', '.join(FAMILIES)}; or add the family: one file in raydistill/models/families/ that makes "
            "a Family (path of the blocks, configuration keys that count or list them, what to mend) and one line in "
            "the table FAMILIES; the tests in tests/models then run over it"
        ),
    )


def _resolve(model: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        model = getattr(model, name, None)
        if model is None:
            return None
    return model


def stacks_of(model: nn.Module) -> tuple[Stack, ...]:
    """Return the stacks that this model has: T5's encoder alone has one, with its decoder two."""
    base = backbone_of(model).base_model
    return tuple(stack for stack in family_of(model).stacks if _resolve(base, stack.path) is not None)


def stack_of(model: nn.Module, name: str | None = None) -> Stack:
    """Return one stack of a model by name; with None, the only one.

    Raises:
        ModelError: No stack has that name, or none was named where there are several.
    """
    stacks = stacks_of(model)
    names = [stack.name for stack in stacks]
    if name is None and len(stacks) == 1:
        return stacks[0]
    if name not in names:
        what = "several stacks of blocks and none was named" if name is None else f"no stack '{name}'"
        raise ModelError(f"{type(backbone_of(model)).__name__} has {what}", mend=f"name one of {', '.join(names)}")
    return stacks[names.index(name)]


def blocks(model: nn.Module, stack: str | None = None) -> nn.ModuleList:
    """Return the Transformer blocks of a model (of one stack by name, where it has several).

    Raises:
        ModelError: Unknown family or stack.
    """
    return _resolve(backbone_of(model).base_model, stack_of(model, stack).path)


def depth(model: nn.Module, stack: str | None = None) -> int:
    """Return the number of Transformer blocks of a model (of one stack by name, where it has several)."""
    return len(blocks(model, stack))


def attention_probabilities(output: ModelOutput, stack: Stack) -> tuple[Tensor, ...]:
    """Return a stack's attention probabilities, a tensor ``[batch, heads, query, key]`` for each of its blocks.

    Args:
        output: What the model gave for ``output_attentions=True`` under the attention implementation ``"eager"``.
        stack: The stack.

    Raises:
        ModelError: The output holds no probabilities.
    """
    for name in stack.attentions:
        probabilities = getattr(output, name, None)
        if probabilities:
            return tuple(probabilities)
    raise ModelError(
        f"the model's output has no attention probabilities for its stack '{stack.name}'",
        mend='run it inside with_attention(model, "eager") and with output_attentions=True',
    )
