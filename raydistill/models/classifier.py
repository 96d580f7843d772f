"""Text classifiers from scratch and from pretrained checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from raydistill.errors import ModelError
from raydistill.models.backbones import check_sizes, family_named, random_backbone
from raydistill.models.checkpoint import load_backbone, read_config, seeded, without_cache
from raydistill.models.families import Family, Size
from raydistill.models.pooling import checked_pooling
from raydistill.models.text_classifier import TextClassifier, random_head
from raydistill.models.tokenizer import answer_tokens, fit_vocabulary, load_tokenizer

__all__ = ["TextClassifier", "build_classifier", "classifier_from_pretrained"]


def build_classifier(
    family: str,
    *,
    vocab_size: int,
    pad_id: int,
    n_classes: int,
    class_names: Sequence[str],
    layers: int,
    hidden: int,
    heads: int,
    dropout: float,
    max_tokens: int,
    seed: int,
    pooling: str | None = None,
    intermediate: int | None = None,
    attention: str | None = None,
    **config,
) -> TextClassifier:
    """Return a classifier with random weights, in training mode.

    Args:
        family: A name in :data:`raydistill.models.families.FAMILIES`.
        vocab_size: Tokens that the tokenizer knows, ``len(tokenizer)``.
        pad_id: The tokenizer's padding token.
        n_classes: Number of classes, two or more.
        class_names: One a class.
        layers: Number of Transformer blocks (in the encoder, and as many in a decoder).
        hidden: Width of the hidden states; a multiple of ``heads``.
        heads: Attention heads.
        dropout: Probability, wherever the family drops, and before the head.
        max_tokens: Longest prompt in tokens.
        seed: Initialization depends on it alone; the global random state is neither read nor changed.
        pooling: How one state is read off a prompt; by default the family's usual way.
        intermediate: Width inside the feed-forward part; four times ``hidden`` by default.
        attention: Attention implementation of transformers; the family's own by default (sdpa for all but Gemma 2).
        config: Further keys of the family's configuration class.

    Raises:
        ModelError: Unknown family, or sizes, classes or a pooling that do not fit.
    """
    chosen = family_named(family)
    pooling = checked_pooling(chosen, pooling)
    _check_classes(n_classes, class_names)
    check_sizes(vocab_size=vocab_size, layers=layers, hidden=hidden, heads=heads, max_tokens=max_tokens)
    size = Size(vocab_size, layers, hidden, heads, intermediate or 4 * hidden, dropout, max_tokens)
    further, model_class, decoder_start = {"pad_token_id": pad_id, **config}, None, []
    if pooling == "answer":
        further["is_encoder_decoder"] = True
        model_class, decoder_start = chosen.answer_class, [pad_id]
    with seeded(seed):
        backbone = random_backbone(chosen, size, attention=attention, model_class=model_class, further=further)
    without_cache(backbone, pad_id)
    return TextClassifier(
        backbone,
        random_head(backbone, n_classes, seed),
        class_names=class_names,
        pooling=pooling,
        max_tokens=max_tokens,
        head_dropout=dropout,
        decoder_start=decoder_start,
    ).train()


def classifier_from_pretrained(
    name: str | Path,
    *,
    n_classes: int,
    class_names: Sequence[str],
    max_tokens: int,
    seed: int,
    pooling: str | None = None,
    dropout: float | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> TextClassifier:
    """Return a pretrained checkpoint under a fresh head, in training mode.

    With the pooling ``answer`` the head is no random one: it starts from the rows of the checkpoint's output table that
    belong to the class names, so that the classifier gives what the checkpoint says of them before any training.

    Args:
        name: A model name on the Hugging Face hub, or a folder with ``config.json`` and safetensors.
        n_classes: Number of classes, two or more.
        class_names: One a class; with the pooling ``answer`` the words of the answers.
        max_tokens: Longest prompt in tokens.
        seed: For the head.
        pooling: How one state is read off a prompt; by default the family's usual way.
        dropout: Probability to use instead of the checkpoint's own.
        tokenizer: What the prompts are made with; the checkpoint's own by default.
        dtype: What the backbone's weights become; the head is always float32.
        trust_remote_code: Passed on to transformers.

    Raises:
        ModelError: Not found, not reachable, an unsupported architecture, too few positions, a tokenizer that does not
            belong to the checkpoint, or classes or a pooling that do not fit.
    """
    _check_classes(n_classes, class_names)
    check_sizes(max_tokens=max_tokens)
    family, config, pooling = checked_checkpoint(
        str(name), pooling=pooling, max_tokens=max_tokens, trust_remote_code=trust_remote_code
    )
    tokenizer = tokenizer or load_tokenizer(str(name), trust_remote_code=trust_remote_code)
    load = {"dtype": dtype, "dropout": dropout, "trust_remote_code": trust_remote_code}
    model_class = family.generation_class if pooling == "answer" else None
    _, backbone = load_backbone(str(name), model_class=model_class, **load)
    fit_vocabulary(backbone, tokenizer, seed)
    head, decoder_start, scale = random_head(backbone, n_classes, seed), [], 1.0
    if pooling == "answer":
        start = getattr(config, "decoder_start_token_id", None)  # T5's is its padding token
        common, answers = answer_tokens(tokenizer, class_names)
        decoder_start, scale = (
            [tokenizer.pad_token_id if start is None else start, *common],
            family.output_scale(config),
        )
        with torch.no_grad():
            head.weight.copy_(backbone.get_output_embeddings().weight[answers])
        backbone = _without_output_table(backbone, family)
    without_cache(backbone, tokenizer.pad_token_id)
    return TextClassifier(
        backbone,
        head,
        class_names=class_names,
        pooling=pooling,
        max_tokens=max_tokens,
        head_dropout=float(getattr(backbone.config, family.dropout_keys[0])),
        output_scale=scale,
        decoder_start=decoder_start,
    ).train()


def checked_checkpoint(
    name: str, *, pooling: str | None, max_tokens: int, trust_remote_code: bool = False
) -> tuple[Family, PreTrainedConfig, str]:
    """Return family, configuration and pooling of a checkpoint as a classifier; no weights are read.

    Args:
        name: As in :func:`classifier_from_pretrained`.
        pooling: How one state is read off a prompt; by default the family's usual way.
        max_tokens: Longest prompt in tokens.
        trust_remote_code: Passed on to transformers.

    Raises:
        ModelError: Not found, not reachable, an unsupported architecture, too few positions, or a pooling that does
            not fit.
    """
    family, config = read_config(name, trust_remote_code=trust_remote_code)
    pooling = checked_pooling(family, pooling)
    limit = family.position_limit(config)
    if limit is not None and max_tokens > limit:
        raise ModelError(
            f"the checkpoint covers {limit} positions, fewer than the {max_tokens} tokens of a prompt",
            where=name,
            mend=f"set prompt.max_tokens to at most {limit}, or choose another checkpoint",
        )
    return family, config, pooling


def _without_output_table(model: PreTrainedModel, family: Family) -> PreTrainedModel:
    """Return the base model inside a model that generates, sharing its modules."""
    with torch.device("meta"):
        base = getattr(transformers, family.answer_class)(model.config)
    for name, _ in list(base.named_children()):
        setattr(base, name, getattr(model, name))
    return base


def _check_classes(n_classes: int, class_names: Sequence[str]) -> None:
    if n_classes < 2:
        raise ModelError(f"there is {n_classes} class", mend="a classifier needs at least two")
    if len(set(class_names)) != n_classes or len(class_names) != n_classes:
        raise ModelError(
            f"the names {', '.join(class_names)} do not name {n_classes} classes", mend="give each class its own name"
        )
