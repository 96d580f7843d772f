"""Base models from folders and from the hub, and item tables in place of their token tables."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from raydistill.errors import ModelError
from raydistill.models.families import Family, family_of
from raydistill.records.files import content_hash, sha256_file

PACKAGE = "package:"

CONTENT = (".json", ".safetensors", ".txt", ".model")
"""Endings of the files of a checkpoint that decide what it computes: configuration, weights, tokenizer."""

TOKENIZER_FILES = "tokenizer.json and tokenizer_config.json"

MALFORMED = (StrictDataclassError, AttributeError, TypeError)
"""What transformers raises for a config.json that is JSON, but holds values of other kinds than it has."""


def located(name: str | Path) -> str:
    """Return where a checkpoint lies: a folder and a name on the hub as they are, ``package:NAME/FOLDER`` found.

    Raises:
        ModelError: The package is not installed, or has no such folder.
    """
    name = str(name)
    if not name.startswith(PACKAGE):
        return name
    package, _, folder = name.removeprefix(PACKAGE).partition("/")
    try:
        place = Path(str(importlib.resources.files(package))) / folder
    except ModuleNotFoundError as error:
        raise ModelError(
            f"the package {package} is not installed",
            where=name,
            mend=f"pip install {package.replace('_', '-')}, or name a folder or a model on the hub",
        ) from error
    if not place.is_dir():
        raise ModelError(f"the package {package} has no folder {folder!r}", where=name, mend="correct the name")
    return str(place)


def content_of(name: str) -> str:
    """Return what tells two checkpoints of one name apart: a hash of the files, or of the hub its revision.

    Args:
        name: As for :func:`located`; a checkpoint of the hub must have been loaded before.
    """
    folder = Path(located(name))
    if folder.is_dir():
        files = [path for path in sorted(folder.iterdir()) if path.suffix in CONTENT and path.is_file()]
        return content_hash({path.name: sha256_file(path) for path in files})
    config = try_to_load_from_cache(name, "config.json")
    return Path(config).parent.name if isinstance(config, str) else "unknown"


def read_config(name: str, *, trust_remote_code: bool = False) -> tuple[Family, PreTrainedConfig]:
    """Return the family and the configuration of a checkpoint.

    Args:
        name: A folder, or a model name on the Hugging Face hub.
        trust_remote_code: Passed on to transformers.

    Raises:
        ModelError: Not found, not reachable, or an architecture that is not supported.
    """
    try:
        config = AutoConfig.from_pretrained(located(name), trust_remote_code=trust_remote_code)
    except MALFORMED as error:
        raise malformed(name, error) from error
    except (OSError, ValueError) as error:
        raise _unusable(name, error) from error
    return family_of(config), config


def load_backbone(
    name: str,
    *,
    dtype: torch.dtype | str,
    attention: str | None = None,
    dropout: float | None = None,
    model_class: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Family, PreTrainedModel]:
    """Return the family and the base model of a checkpoint, without task head, read from safetensors only.

    Args:
        name: A folder, or a model name on the Hugging Face hub.
        dtype: What the weights become, or ``"auto"`` for the checkpoint's own.
        attention: Attention implementation of transformers; the family's own by default.
        dropout: Probability to use instead of the checkpoint's own.
        model_class: Name of a class in ``transformers`` to load; the family's ``base_class`` by default.
        trust_remote_code: Passed on to transformers.

    Raises:
        ModelError: Not found, not reachable, incomplete, or an architecture that is not supported.
    """
    family, config = read_config(name, trust_remote_code=trust_remote_code)
    for key in family.dropout_keys if dropout is not None else ():
        setattr(config, key, dropout)
    try:
        with quiet():
            backbone, report = getattr(transformers, model_class or family.base_class).from_pretrained(
                located(name),
                config=config,
                dtype=dtype,
                attn_implementation=attention or family.attention,
                use_safetensors=True,
                output_loading_info=True,
                **({} if model_class else family.base_arguments),
            )
    # A size that does not fit is a RuntimeError; an attention kernel that is not installed an ImportError.
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise _unusable(name, error) from error
    if report["missing_keys"]:
        raise ModelError(
            f"the checkpoint lacks {len(report['missing_keys'])} weights, such as {min(report['missing_keys'])}",
            where=name,
            mend="they would stay random: use a complete checkpoint of this architecture",
        )
    return family, backbone


def malformed(name: str, error: Exception) -> ModelError:
    """Return the error for a ``config.json`` with a value of the wrong kind."""
    return ModelError(
        f"the configuration of the checkpoint cannot be read: {one_line(error)}",
        where=str(Path(name) / "config.json") if Path(name).is_dir() else f"config.json of {name}",
        mend="correct it there, or take the file of the original checkpoint",
    )


def _unusable(name: str, error: Exception) -> ModelError:
    return ModelError(f"the checkpoint cannot be loaded: {one_line(error)}", where=name, mend=_what_to_bring(name))


def _what_to_bring(name: str) -> str:
    if Path(name).is_dir():
        return (
            "the folder must hold config.json and *.safetensors; load other formats elsewhere and save_pretrained them"
        )
    return to_download(name, "config.json, *.safetensors and, of a model that reads text, " + TOKENIZER_FILES)


def to_download(name: str, files: str) -> str:
    """Return how to do without the hub; all files are named at once, whichever was missed first."""
    return (
        f"download {files} from https://huggingface.co/{name} into one folder, on a machine with network, and give "
        "that folder instead of the name"
    )


def read_record(folder: str | Path, name: str, kind: str, keys: set[str]) -> dict:
    """Return what the JSON file ``name`` says that a saved model has beside its weights.

    Args:
        folder: The model's folder.
        name: The file's name.
        kind: The class that writes such folders, for messages.
        keys: Keys that must be there.

    Raises:
        ModelError: There is no such file, or it is cut or incomplete.
    """
    record = Path(folder) / name
    if not record.is_file():
        raise ModelError(
            f"this folder holds no {kind}",
            where=str(folder),
            mend=f"give a folder that {kind}.save_pretrained wrote: it has {name} beside the weights",
        )
    try:
        settings = json.loads(record.read_text())
    except json.JSONDecodeError as error:
        raise ModelError(f"{name} is not valid JSON: {error}", where=str(record), mend="save it again") from error
    missing = keys - set(settings)
    if missing:
        raise ModelError(f"{name} lacks {', '.join(sorted(missing))}", where=str(record), mend="save it again")
    return settings


def read_weights(folder: str | Path, name: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file beside a saved model's weights.

    Raises:
        ModelError: It is absent or cut.
    """
    try:
        return load_file(Path(folder) / name)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{name} cannot be read: {one_line(error)}", where=str(folder), mend="save the model again"
        ) from error


def without_cache(backbone: PreTrainedModel, pad_id: int | None) -> None:
    """Tell every part of a model its padding id, and to keep no key-value cache: whole sequences are scored."""
    for part in backbone.modules():
        if isinstance(part, PreTrainedModel):
            part.config.pad_token_id = pad_id
            part.config.use_cache = False


def one_line(error: Exception) -> str:
    """Return the message of an error of transformers, which may fill many lines, cut to one line."""
    return shorten(str(error), 200, placeholder=" ...")


@torch.no_grad()
def replace_table(backbone: PreTrainedModel, rows: int, std: float) -> None:
    """Put a random item table in the place of the token table, in every module that shares it.

    Args:
        backbone: The base model.
        rows: Rows of the new table; row 0, the padding, is zero.
        std: Standard deviation of the other rows.
    """
    old = backbone.get_input_embeddings().weight
    table = nn.Parameter(torch.empty(rows, old.shape[1], dtype=old.dtype).normal_(std=std))
    table[0] = 0
    for module in backbone.modules():
        if isinstance(module, nn.Embedding) and module.weight is old:
            module.weight = table
            module.num_embeddings = rows
            module.padding_idx = backbone.config.pad_token_id
        if isinstance(module, PreTrainedModel):
            module.config.vocab_size = rows


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run with the CPU's random numbers seeded, and put the global state back afterwards."""
    before = torch.get_rng_state()
    # torch.manual_seed would seed every accelerator as well, and nothing would put those back.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Run without the progress bars and load reports of transformers: a sweep saves and loads hundreds of models."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
