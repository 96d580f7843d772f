"""T5: relative positions kept in block 0 of each stack; encoder alone, or encoder and decoder.

A recommender uses the encoder alone; so does a text classifier, but for the pooling ``answer``.
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
        # The table is tied all the same; this is how T5's configuration says that outputs are not scaled down.
        "tie_word_embeddings": False,
        "use_cache": False,
    }
    return T5Config(**{**settings, **further})


def _output_scale(config: PreTrainedConfig) -> float:
    """Return T5's factor before its output table; version 1.1 and recommenders from scratch have none."""
    return config.d_model**-0.5 if config.scale_decoder_outputs else 1.0


def _table_std(config: PreTrainedConfig) -> float:
    """Return 0.05, in place of T5's own 1: of 0.02 to 1, scaled or not, it learned fastest on a small Markov chain."""
    return 0.05


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
    output_scale=_output_scale,
    table_std=_table_std,
    first_block_parameters=("relative_attention_bias",),
    independent_blocks=False,
    poolings=("mean", "answer"),
    answer_class="T5Model",
    generation_class="T5ForConditionalGeneration",
)
