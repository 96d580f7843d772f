"""Small models of every family, with weights far from zero so that each block matters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import transformers as hf
from torch import nn
from transformers import PreTrainedModel

N_LAYERS = 4
LENGTH = 10
VOCABULARY = 23

_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": N_LAYERS, "n_head": 2, "n_positions": 32}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": N_LAYERS,
    "num_decoder_layers": 3,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
_ALTERNATING = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
_NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


@dataclass(frozen=True)
class Case:
    """One small teacher: how to build it and what to expect of it."""

    model_class: type[PreTrainedModel]
    config_class: type[hf.PreTrainedConfig]
    settings: dict
    causal: bool = False
    exact: bool = True
    inputs: dict = field(default_factory=dict)


def _bert_like(name: str, **further) -> dict[str, Case]:
    config = getattr(hf, f"{name}Config")
    return {
        f"{name}{head}": Case(getattr(hf, f"{name}{head}"), config, {**_BERT, **further})
        for head in ("Model", "ForSequenceClassification", "ForMaskedLM")
    }


def _llama_like(name: str, config: str | None = None, **further) -> Case:
    settings = {**_LLAMA, **_NO_TOKENS, **further}
    return Case(getattr(hf, f"{name}ForCausalLM"), getattr(hf, config or f"{name}Config"), settings, causal=True)


CASES: dict[str, Case] = {
    **_bert_like("Bert"),
    "BertLMHeadModel": Case(
        hf.BertLMHeadModel, hf.BertConfig, {**_BERT, "is_decoder": True, "eos_token_id": None}, causal=True
    ),
    **_bert_like("Roberta"),
    **_bert_like("DistilBert", dim=16, n_heads=2, hidden_dim=24, n_layers=N_LAYERS),
    "GPT2Model": Case(hf.GPT2Model, hf.GPT2Config, _GPT2),
    "GPT2LMHeadModel": Case(hf.GPT2LMHeadModel, hf.GPT2Config, {**_GPT2, **_NO_TOKENS}, causal=True),
    "GPT2ForSequenceClassification": Case(
        hf.GPT2ForSequenceClassification, hf.GPT2Config, {**_GPT2, **_NO_TOKENS, "pad_token_id": 0}
    ),
    "GPT2-scaled-by-index": Case(
        hf.GPT2LMHeadModel,
        hf.GPT2Config,
        {**_GPT2, **_NO_TOKENS, "scale_attn_by_inverse_layer_idx": True},
        causal=True,
        exact=False,
    ),
    "GPT2-scaled-upcast": Case(
        hf.GPT2LMHeadModel,
        hf.GPT2Config,
        {
            **_GPT2,
            **_NO_TOKENS,
            "scale_attn_by_inverse_layer_idx": True,
            "reorder_and_upcast_attn": True,
            "attn_implementation": "eager",
        },
        causal=True,
        exact=False,
    ),
    "T5EncoderModel": Case(hf.T5EncoderModel, hf.T5Config, _T5),
    "T5Model": Case(hf.T5Model, hf.T5Config, _T5),
    "T5ForConditionalGeneration": Case(hf.T5ForConditionalGeneration, hf.T5Config, {**_T5, "eos_token_id": None}),
    "T5-gated-unscaled": Case(
        hf.T5ForConditionalGeneration,
        hf.T5Config,
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "eos_token_id": None},
    ),
    "LlamaForCausalLM": _llama_like("Llama"),
    "Llama-tied": _llama_like("Llama", tie_word_embeddings=True),
    "Mistral-sliding": _llama_like("Mistral", sliding_window=4),
    "Qwen2ForCausalLM": _llama_like("Qwen2"),
    "Qwen2-sliding": _llama_like("Qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=2),
    "Qwen3-alternating": _llama_like("Qwen3", use_sliding_window=True, sliding_window=4, layer_types=_ALTERNATING),
    "GemmaForCausalLM": _llama_like("Gemma"),
    "Gemma2-alternating": _llama_like("Gemma2", sliding_window=4, query_pre_attn_scalar=8, layer_types=_ALTERNATING),
    "Gemma3-alternating": _llama_like(
        "Gemma3", "Gemma3TextConfig", sliding_window=4, query_pre_attn_scalar=8, layer_types=_ALTERNATING
    ),
}
CAUSAL = [name for name, case in CASES.items() if case.causal]


def build(name: str, **further) -> PreTrainedModel:
    """Return the teacher of a case in eval mode."""
    case = CASES[name]
    state = torch.get_rng_state()
    torch.manual_seed(7)
    model = case.model_class(case.config_class(**{**case.settings, **further}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    torch.set_rng_state(state)
    return model.eval()


def inputs_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return a batch that the model takes, with padding where it has a mask."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, VOCABULARY, (3, LENGTH), generator=generator)
    inputs = {"input_ids": ids}
    if model.config.model_type in ("bert", "roberta", "distilbert", "t5") and not getattr(
        model.config, "is_decoder", False
    ):
        mask = torch.ones_like(ids)
        mask[1, 6:] = 0
        inputs["attention_mask"] = mask
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(2, VOCABULARY, (3, 7), generator=generator)
    return inputs


def result(model: PreTrainedModel, **further) -> torch.Tensor:
    """Return the logits, or the final hidden states of a base model."""
    with torch.no_grad():
        output = model(**{**inputs_of(model), **further})
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


_OUTPUT_PROJECTIONS = (
    "attn.c_proj",
    "mlp.c_proj",
    "SelfAttention.o",
    "EncDecAttention.o",
    "DenseReluDense.wo",
    "self_attn.o_proj",
    "mlp.down_proj",
)


def without_effect(model: PreTrainedModel, blocks: Callable[[PreTrainedModel], nn.ModuleList], skipped: list[int]):
    """Return a copy of a pre-norm model in which some blocks add zero to the residual stream."""
    model = copy.deepcopy(model)
    for i in skipped:
        for name, module in blocks(model)[i].named_modules():
            if name.endswith(_OUTPUT_PROJECTIONS):
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)
    return model
