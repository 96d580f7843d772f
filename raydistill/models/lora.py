"""Low-rank adapters (Hu et al. 2022, "LoRA: Low-rank adaptation of large language models"), by peft.

Every linear map W of the blocks (those of attention and of the feed-forward part) becomes W + (alpha / rank) B A with
B and A of ``rank`` columns and rows, and only these and the head are trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from raydistill.errors import ModelError
from raydistill.models.checkpoint import seeded
from raydistill.models.families import blocks, stacks_of
from raydistill.seeding import stream_seed

if TYPE_CHECKING:
    from raydistill.models.text_classifier import TextClassifier


def with_lora(model: TextClassifier, *, rank: int, alpha: float, dropout: float, seed: int) -> TextClassifier:
    """Return the model itself, with adapters in its blocks; only they and its head can be trained.

    Args:
        model: Changed in place, since its backbone may be too large to have twice. It computes what it did before.
        rank: Rank of the adapters.
        alpha: The adapters' product is scaled by ``alpha / rank``.
        dropout: Probability with which adapters drop entries of their input.
        seed: For the adapters' first values.

    Raises:
        ModelError: There are adapters already, or settings that do not fit.
    """
    from peft import LoraConfig, inject_adapter_in_model  # loading it takes seconds, and few sweeps have adapters

    backbone = model.backbone
    refuse_adapters(backbone, "given further ones")
    if rank < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise ModelError(
            f"LoRA cannot have rank {rank}, alpha {alpha} and dropout {dropout}",
            where="tuning",
            mend="rank must be at least 1, alpha above 0, dropout at least 0 and below 1",
        )
    inner = {id(module) for stack in stacks_of(backbone) for module in blocks(backbone, stack.name).modules()}
    named = ((name, module) for name, module in backbone.named_modules() if id(module) in inner)
    linear = {name: module for name, module in named if isinstance(module, (nn.Linear, Conv1D))}
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(linear),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in linear.values()),
    )
    training = backbone.training
    with seeded(stream_seed(seed, "adapters")):
        inject_adapter_in_model(config, backbone)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_" in name)
    backbone.train(training)
    return model


def merged(model: TextClassifier) -> TextClassifier:
    """Return the model itself, its adapters added to the weights that they adapt and gone; all of it can be trained.

    Raises:
        ModelError: It has no adapters.
    """
    from peft.tuners.lora import LoraLayer

    backbone = model.backbone
    if not has_adapters(backbone):
        raise ModelError("the model has no LoRA adapters to merge")
    adapted = [(name, module) for name, module in backbone.named_modules() if isinstance(module, LoraLayer)]
    for name, module in adapted:
        module.merge()
        owner, _, leaf = name.rpartition(".")
        setattr(backbone.get_submodule(owner), leaf, module.get_base_layer())
    backbone.requires_grad_(True)
    return model


def has_adapters(backbone: PreTrainedModel) -> bool:
    """Return whether a model has low-rank adapters that are not merged into its weights."""
    return any("lora_" in name for name, _ in backbone.named_parameters())


def refuse_adapters(backbone: PreTrainedModel, purpose: str) -> None:
    """Refuse a model that has adapters.

    Args:
        backbone: The model.
        purpose: What a model with adapters cannot be, such as ``"cut"``.

    Raises:
        ModelError: It has.
    """
    if has_adapters(backbone):
        raise ModelError(
            f"a model with LoRA adapters cannot be {purpose}", mend="merge them into the weights first: merged(model)"
        )
