"""Low-rank adapters (Hu et al. 2022, "LoRA: Low-rank adaptation of large language models")."""

from __future__ import annotations

from transformers import PreTrainedModel

from raydistill.errors import ModelError


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
