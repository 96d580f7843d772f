"""A Hugging Face base model over items: sequences of items in, scores of every item out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from raydistill.errors import ModelError
from raydistill.models.families import FAMILIES, Family, Size, depth, family_of
from raydistill.models.surgery import keep_layers

RECORD = "recommender.json"


class Recommender(nn.Module):
    """Scores every item as the next one, by the inner product of a hidden state and the item table.

    Args:
        backbone: A base model whose input embedding is the item table: row 0 padding, rows 1..n_items the items, row
            n_items + 1 the mask item.
        n_items: Number of items.
        max_length: Longest sequence in items.
        causal: Whether a position sees the past only.
        output_scale: Factor between the backbone's final hidden states and what meets the item table.
    """

    def __init__(
        self, backbone: PreTrainedModel, *, n_items: int, max_length: int, causal: bool, output_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_items = n_items
        self.max_length = max_length
        self.causal = causal
        self.output_scale = output_scale

    def hidden(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"] | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        """Return the final hidden states, normed and scaled, so that ``hidden @ output_weight.T`` are the logits.

        Args:
            input_ids: Items, padded on the right with 0.
            attention_mask: 1 where there is an item. A causal model needs none: padding stands after every real
                position and cannot reach it. A bidirectional model takes ``input_ids != 0`` where none is given.
        """
        if attention_mask is None and not self.causal:
            attention_mask = input_ids.ne(0)
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden if self.output_scale == 1.0 else hidden * self.output_scale

    def forward(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"] | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        """Return :meth:`hidden`, so that wrappers which call the module (data parallel, sharded) work."""
        return self.hidden(input_ids, attention_mask)

    @property
    def output_weight(self) -> Float[Tensor, "n_items dim"]:
        """The items' rows of the item table, a view: class c is item c + 1."""
        return self.backbone.get_input_embeddings().weight[1 : self.n_items + 1]

    def logits(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch n_items"]:
        """Return the scores of all items for hidden states of :meth:`hidden`."""
        return hidden @ self.output_weight.T

    @property
    def n_layers(self) -> int:
        """Number of Transformer blocks."""
        return depth(self.backbone)

    @property
    def mask_item(self) -> int:
        """Row of the mask item in the item table."""
        return self.n_items + 1

    def keep_layers(self, layer_map: list[int], *, teacher_hash: str | None = None) -> Recommender:
        """Return a recommender of some of this one's blocks; see :func:`raydistill.models.surgery.keep_layers`."""
        student = keep_layers(self.backbone, layer_map, teacher_hash=teacher_hash)
        student = Recommender(student, **self._settings())
        return student.train(self.training)

    def _settings(self) -> dict:
        return {
            "n_items": self.n_items,
            "max_length": self.max_length,
            "causal": self.causal,
            "output_scale": self.output_scale,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the backbone as Hugging Face does, and beside it ``recommender.json``."""
        folder = Path(folder)
        self.backbone.save_pretrained(folder)
        (folder / RECORD).write_text(json.dumps(self._settings(), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Recommender:
        """Return the recommender that :meth:`save_pretrained` wrote, in eval mode.

        Raises:
            ModelError: The folder holds no recommender.
        """
        record = Path(folder) / RECORD
        if not record.is_file():
            raise ModelError(
                "this folder holds no recommender",
                where=str(folder),
                mend=f"give a folder that Recommender.save_pretrained wrote: it has {RECORD} beside the weights",
            )
        settings = json.loads(record.read_text())
        return cls(_load(str(folder), trust_remote_code=False)[1], **settings).eval()


def build_recommender(
    family: str,
    *,
    n_items: int,
    layers: int,
    hidden: int,
    heads: int,
    dropout: float,
    max_length: int,
    seed: int,
    attention: str = "sdpa",
    intermediate: int | None = None,
    **config,
) -> Recommender:
    """Return a recommender with random weights, in training mode.

    Args:
        family: A name in :data:`raydistill.models.families.FAMILIES`.
        n_items: Number of items.
        layers: Number of Transformer blocks.
        hidden: Width of the hidden states; a multiple of ``heads``.
        heads: Attention heads.
        dropout: Probability, wherever the family drops.
        max_length: Longest sequence in items.
        seed: Initialization depends on it alone; the global random state is neither read nor changed.
        attention: Attention implementation of transformers.
        intermediate: Width inside the feed-forward part; four times ``hidden`` by default.
        config: Further keys of the family's configuration class.

    Raises:
        ModelError: Unknown family, or sizes that do not fit.
    """
    if family not in FAMILIES:
        raise ModelError(f"unknown model family '{family}'", mend=f"use one of {', '.join(FAMILIES)}")
    _check_sizes(n_items=n_items, layers=layers, hidden=hidden, heads=heads, max_length=max_length)
    chosen = FAMILIES[family]
    size = Size(n_items + 2, layers, hidden, heads, intermediate or 4 * hidden, dropout, max_length)
    settings = chosen.recommender_config(size, attn_implementation=attention, **config)
    # Only training and scoring of whole sequences happens here: a cache would be filled and thrown away.
    settings.use_cache = False
    with seeded(seed):
        backbone = getattr(transformers, chosen.base_class)(settings, **chosen.base_arguments)
        _fresh_table(backbone, n_items + 2, chosen.table_std(settings))
    return Recommender(
        backbone,
        n_items=n_items,
        max_length=max_length,
        causal=chosen.causal,
        output_scale=chosen.output_scale(settings),
    )


def recommender_from_pretrained(
    name_or_folder: str | Path,
    *,
    n_items: int,
    max_length: int,
    seed: int,
    dropout: float | None = None,
    trust_remote_code: bool = False,
) -> Recommender:
    """Return a pretrained checkpoint as a recommender: its blocks and positions, over a fresh item table.

    Args:
        name_or_folder: A model name on the Hugging Face hub, or a folder with ``config.json`` and safetensors.
        n_items: Number of items.
        max_length: Longest sequence in items.
        seed: For the item table.
        dropout: Probability to use instead of the checkpoint's own.
        trust_remote_code: Passed on to transformers.

    Raises:
        ModelError: Not found, not reachable, an unsupported architecture, or too short a position table.
    """
    _check_sizes(n_items=n_items, max_length=max_length)
    family, backbone = _load(str(name_or_folder), trust_remote_code=trust_remote_code, dropout=dropout)
    if family.pad_with_zero is not None:
        family.pad_with_zero(backbone)
    limit = family.position_limit(backbone.config)
    if limit is not None and max_length > limit:
        raise ModelError(
            f"the checkpoint covers {limit} positions, fewer than max_length {max_length}",
            where=str(name_or_folder),
            mend=f"set data.max_length to at most {limit}, or choose another checkpoint",
        )
    std = float(backbone.get_input_embeddings().weight.detach().float().std())
    with seeded(seed):
        _fresh_table(backbone, n_items + 2, std)
    backbone.config.pad_token_id = None if family.causal else 0
    backbone.config.use_cache = False
    return Recommender(
        backbone,
        n_items=n_items,
        max_length=max_length,
        causal=family.causal,
        output_scale=family.output_scale(backbone.config),
    ).train()


def _load(name: str, *, trust_remote_code: bool, dropout: float | None = None) -> tuple[Family, PreTrainedModel]:
    """Return the family and the base model of a checkpoint, from safetensors only."""
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        family = family_of(config)
        if dropout is not None:
            for key in family.dropout_keys:
                setattr(config, key, dropout)
        base_class = getattr(transformers, family.base_class)
        backbone = base_class.from_pretrained(name, config=config, use_safetensors=True, **family.base_arguments)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the checkpoint cannot be loaded: {str(error).splitlines()[0]}",
            where=name,
            mend=(
                f"download config.json and the *.safetensors files from https://huggingface.co/{name} on a machine "
                "with network into one folder, and give that folder instead of the name"
            ),
        ) from error
    return family, backbone


def _fresh_table(backbone: PreTrainedModel, rows: int, std: float) -> None:
    """Replace the token table by a random item table; every module that shared the old one shares the new one."""
    old = backbone.get_input_embeddings().weight
    table = nn.Parameter(torch.empty(rows, old.shape[1], dtype=old.dtype).normal_(std=std))
    with torch.no_grad():
        table[0] = 0
    for module in backbone.modules():
        if isinstance(module, nn.Embedding) and module.weight is old:
            module.weight = table
            module.num_embeddings = rows
            if module.padding_idx is not None:
                module.padding_idx = 0
    for part in backbone.modules():
        if isinstance(part, PreTrainedModel):
            part.config.vocab_size = rows


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


def _check_sizes(*, hidden: int = 1, heads: int = 1, **counts: int) -> None:
    for name, count in {"hidden": hidden, "heads": heads, **counts}.items():
        if count < 1:
            raise ModelError(f"{name} is {count}", mend=f"{name} must be at least 1")
    if hidden % heads:
        raise ModelError(f"hidden {hidden} is not a multiple of heads {heads}", mend="choose heads that divide hidden")
