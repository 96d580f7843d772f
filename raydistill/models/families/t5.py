"""T5: relative positions kept in block 0 of each stack; encoder alone, or encoder and decoder.

A recommender uses the encoder alone.
"""

from __future__ import annotations

from transformers import PreTrainedConfig, T5Config

from raydistill.models.families.base import Family, Size, Stack


def _config(size: Size, **further) -> T5Config:
    """Return the configuration of a recommender made of a T5 encoder."""
    settings = {
        "vocab_size": size.vocab_size,
        "d_model": size.hidden,
        "d_kv": size.hidden // size.heads,
        "d_ff": size.intermediate,
        "num_layers": size.layers,
        "num_heads": size.heads,
        "dropout_rate": size.dropout,
        "pad_token_id": 0,
        "eos_token_id": None,
        "is_encoder_decoder": False,
        "use_cache": False,
    }
    return T5Config(**{**settings, **further})


def _tied_head_scale(config: PreTrainedConfig) -> float:
    """Return the factor by which T5 scales final hidden states before its tied output table."""
    return config.d_model**-0.5


def _table_std(config: PreTrainedConfig) -> float:
    """Return 1 times the initializer factor: with the tied head's scale, first logits have a deviation of about 1."""
    return config.initializer_factor


T5 = Family(
    name="t5",
    model_types=("t5",),
    base_class="T5EncoderModel",
    stacks=(
        Stack("encoder", "encoder.block", "num_layers", attentions=("encoder_attentions", "attentions")),
        Stack("decoder", "decoder.block", "num_decoder_layers", attentions=("decoder_attentions",)),
    ),
    causal=False,
    recommender_config=_config,
    dropout_keys=("dropout_rate",),
    position_limit=lambda config: None,
    output_scale=_tied_head_scale,
    table_std=_table_std,
    first_block_parameters=("relative_attention_bias",),
    independent_blocks=False,
)
