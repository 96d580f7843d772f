"""Tokenizers with a padding token, and the tokens that a model answers with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from raydistill.errors import ModelError
from raydistill.models.checkpoint import TOKENIZER_FILES, located, malformed, one_line, quiet, seeded, to_download
from raydistill.models.families import family_of


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """Return the fast tokenizer of a checkpoint, padding on the right, with a padding token.

    Where it has none, its end-of-text token becomes the padding, else its unknown token; attention masks keep padding
    apart, so no model takes it for text. Where it has neither, ``[PAD]`` is added to the vocabulary.

    Args:
        name: A folder, or a model name on the Hugging Face hub.
        trust_remote_code: Passed on to transformers.

    Raises:
        ModelError: Not found, not reachable, or there is no fast tokenizer.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(located(name), trust_remote_code=trust_remote_code)
    # It looks into config.json as well, for the kind of the model.
    except StrictDataclassError as error:
        raise malformed(name, error) from error
    # A file that is cut is a ValueError of json; a tokenizer that needs a library that is missing an ImportError;
    # a file that holds something else than it should the others.
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the tokenizer cannot be loaded: {one_line(error)}", where=str(name), mend=_what_to_bring(name)
        ) from error
    # For a folder without a tokenizer transformers makes one of the model's kind that knows no word.
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 2:
        raise ModelError("the checkpoint has no tokenizer", where=str(name), mend=_what_to_bring(name))
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} is not a fast tokenizer",
            where=str(name),
            mend="use a checkpoint that has tokenizer.json",
        )
    tokenizer.padding_side = "right"
    tokenizer.padding_note = None if tokenizer.pad_token_id is not None else _give_padding(tokenizer)
    return tokenizer


def padding_note(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """Return what :func:`load_tokenizer` made the padding token of a tokenizer without one; None for all others."""
    return getattr(tokenizer, "padding_note", None)


def _what_to_bring(name: str) -> str:
    if Path(name).is_dir():
        return f"the folder must hold {TOKENIZER_FILES}"
    return to_download(name, f"{TOKENIZER_FILES} and, where it is the model too, config.json and *.safetensors")


def _give_padding(tokenizer: PreTrainedTokenizerFast) -> str:
    """Set a padding token and return, for people, which."""
    token = tokenizer.eos_token or tokenizer.unk_token
    if token is not None:
        tokenizer.pad_token = token
        return f"the tokenizer has no padding token: its own {token!r} is used"
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    return "the tokenizer has no padding token, and none to use in its place: '[PAD]' is added"


def fit_vocabulary(backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Check that a tokenizer is this model's, and give a padding token that was added a row of the token table.

    Args:
        backbone: The model; changed where the token has none.
        tokenizer: The tokenizer.
        seed: For the new row, which no attention reaches.

    Raises:
        ModelError: The tokenizer has no padding token, or it is another model's.
    """
    rows, pad = backbone.get_input_embeddings().num_embeddings, tokenizer.pad_token_id
    own = backbone.config.pad_token_id
    if pad is None:
        raise ModelError("the tokenizer has no padding token", mend="load it with load_tokenizer, which sets one")
    if len(tokenizer) == rows + 1 and pad == rows:
        with seeded(seed), quiet():
            backbone.resize_token_embeddings(rows + 1, mean_resizing=False)
    elif len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens and the checkpoint a table of {rows}",
            mend="use the tokenizer that the checkpoint was trained with",
        )
    elif not family_of(backbone).causal and own not in (None, pad):
        raise ModelError(
            f"the tokenizer's padding token is {pad} and the checkpoint's is {own}",
            mend="use the tokenizer that the checkpoint was trained with",
        )


def answer_tokens(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the tokens that all words begin with, and for each word the one after them, which tells it from the rest.

    Args:
        tokenizer: The tokenizer.
        words: One answer a class.

    Raises:
        ModelError: Two words do not differ in their first token after what is common to all.
    """
    tokens = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    common = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, zip(*tokens, strict=False))]
    first = [row[len(common)] if len(row) > len(common) else None for row in tokens]
    if None in first or len(set(first)) < len(first):
        pairs = zip(words, tokens, strict=True)
        pieces = ", ".join(f"'{word}' is {tokenizer.convert_ids_to_tokens(row)}" for word, row in pairs)
        raise ModelError(
            f"the answers cannot be told apart by one token: {pieces}",
            where="class names with the pooling 'answer'",
            mend="choose words that differ in their first token",
        )
    return common, first
