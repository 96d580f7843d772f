"""GPT-2: causal, learned positions, attention that may be scaled by the block's index."""

from __future__ import annotations

import torch
from transformers import GPT2Config, PreTrainedModel

from raydistill.models.families.base import Family, LayerMaps, Size, Stack


def _config(size: Size, **further) -> GPT2Config:
    """Return the configuration of a GPT-2 recommender."""
    settings = {
        "vocab_size": size.vocab_size,
        "n_positions": size.max_length,
        "n_embd": size.hidden,
        "n_layer": size.layers,
        "n_head": size.heads,
        "n_inner": size.intermediate,
        "resid_pdrop": size.dropout,
        "embd_pdrop": size.dropout,
        "attn_pdrop": size.dropout,
        # GPT-2's own gelu_new is the same function, spelt out in eight operators.
        "activation_function": "gelu_pytorch_tanh",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return GPT2Config(**{**settings, **further})


@torch.no_grad()
def _fold_index_scaling(student: PreTrainedModel, layer_maps: LayerMaps) -> None:
    """Multiply the queries so that each block keeps the attention scale of its old index.

    With ``scale_attn_by_inverse_layer_idx`` the block at index i divides its attention scores by i + 1. A block that
    moves from j to i would divide by the wrong number; scores are linear in the query, so the query projection times
    (i + 1) / (j + 1) restores them. The correction lies in the weights: it is saved with them, and loads without us.
    """
    if not student.config.scale_attn_by_inverse_layer_idx:
        return
    for new, (block, old) in enumerate(zip(student.base_model.h, layer_maps["blocks"], strict=True)):
        if new == old:
            continue
        ratio = (new + 1) / (old + 1)
        width = block.attn.split_size
        block.attn.c_attn.weight[:, :width] *= ratio
        block.attn.c_attn.bias[:width] *= ratio
        if hasattr(block, "crossattention"):
            block.crossattention.q_attn.weight *= ratio
            block.crossattention.q_attn.bias *= ratio


GPT2 = Family(
    name="gpt2",
    model_types=("gpt2",),
    base_class="GPT2Model",
    stacks=(Stack("blocks", "h"),),
    causal=True,
    recommender_config=_config,
    dropout_keys=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    mend=_fold_index_scaling,
    poolings=("last", "mean"),
)
