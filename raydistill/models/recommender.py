"""A Hugging Face base model over items: sequences of items in, scores of every item out."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from raydistill.errors import ModelError
from raydistill.models.backbones import check_sizes, family_named, random_backbone
from raydistill.models.checkpoint import (
    load_backbone,
    quiet,
    read_record,
    read_weights,
    replace_table,
    seeded,
    without_cache,
)
from raydistill.models.families import Family, Size, depth, family_of
from raydistill.models.item_text import PROJECTIONS, TextTable, text_map
from raydistill.models.surgery import keep_layers, model_hash

RECORD = "recommender.json"
TEXTS = "item_text.safetensors"


class Recommender(nn.Module):
    """Scores every item as the next one, by the inner product of a hidden state and the item table.

    Args:
        backbone: A base model whose input embedding is the item table: row 0 padding, rows 1..n_items the items, row
            n_items + 1 the mask item.
        n_items: Number of items.
        max_length: Longest sequence in items.
        causal: Whether a position sees the past only.
        output_scale: Factor between the backbone's final hidden states and what meets the item table.
        item_text: The item table, where it is a map of texts; what the backbone has in its place then is a copy that
            :meth:`plain` brings up to date.
    """

    stack: str | None = None  # a recommender has one row of blocks

    def __init__(
        self,
        backbone: PreTrainedModel,
        *,
        n_items: int,
        max_length: int,
        causal: bool,
        output_scale: float = 1.0,
        item_text: TextTable | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_items = n_items
        self.max_length = max_length
        self.causal = causal
        self.output_scale = output_scale
        self.item_text = item_text
        if item_text is not None:
            backbone.get_input_embeddings().requires_grad_(False)

    def hidden(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"] | None = None,
        table: Float[Tensor, "rows dim"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Return the final hidden states, normed and scaled, so that ``hidden @ output_weight.T`` are the logits.

        Args:
            input_ids: Items, padded on the right with 0.
            attention_mask: 1 where there is an item. A causal model needs none: padding stands after every real
                position and cannot reach it. A bidirectional model takes ``input_ids != 0`` where none is given.
            table: What :meth:`table` gave, for several calls between which no weight changes.
        """
        if attention_mask is None and not self.causal:
            attention_mask = input_ids.ne(0)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.item_text is None:
            output = self.backbone(**inputs)
        else:
            table = self.table() if table is None else table
            output = functional_call(self.backbone, {self._table_name: table}, kwargs=inputs)
        hidden = output.last_hidden_state
        return hidden if self.output_scale == 1.0 else hidden * self.output_scale

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"] | None = None,
        table: Float[Tensor, "rows dim"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Return :meth:`hidden`, so that wrappers which call the module (data parallel, sharded) work."""
        return self.hidden(input_ids, attention_mask, table)

    def table(self) -> Float[Tensor, "rows dim"]:
        """Return the whole item table; forming one out of texts is as much work as a product with the catalogue."""
        return self.backbone.get_input_embeddings().weight if self.item_text is None else self.item_text()

    def items_of(self, table: Float[Tensor, "rows dim"]) -> Float[Tensor, "n_items dim"]:
        """Return the items' rows of :meth:`table`: class c is item c + 1. A view."""
        return table[1 : self.n_items + 1]

    @property
    def output_weight(self) -> Float[Tensor, "n_items dim"]:
        """The items' rows of the item table. A view, but for a table out of texts, which is formed anew."""
        return self.items_of(self.table())

    def logits(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch n_items"]:
        """Return the scores of all items for hidden states of :meth:`hidden`."""
        return hidden @ self.output_weight.T

    @property
    def n_layers(self) -> int:
        """Number of Transformer blocks."""
        return depth(self.backbone)

    @property
    def n_classes(self) -> int:
        """Number of classes of the softmax, which are the items."""
        return self.n_items

    @property
    def mask_item(self) -> int:
        """Row of the mask item in the item table."""
        return self.n_items + 1

    def keep_layers(self, layer_map: list[int], *, teacher_hash: str | None = None) -> Recommender:
        """Return a recommender of some of this one's blocks; see :func:`raydistill.models.surgery.keep_layers`."""
        student = keep_layers(self.backbone, layer_map, teacher_hash=teacher_hash or model_hash(self))
        text = self.item_text
        student = Recommender(student, **self._settings(), item_text=text and text.copy())
        return student.train(self.training)

    def reinitialized(self, seed: int) -> Recommender:
        """Return a recommender of the same shape with random weights, in training mode.

        Args:
            seed: Initialization depends on it alone.
        """
        family = family_of(self.backbone)
        config = deepcopy(self.backbone.config)
        with seeded(seed):
            backbone = getattr(transformers, family.base_class)(config, **family.base_arguments)
            replace_table(backbone, self.n_items + 2, family.table_std(config))
        fresh = Recommender(backbone, **self._settings()).train()
        if self.item_text is None:
            return fresh
        return fresh.with_item_text(self.item_text.texts.cpu().numpy(), "linear", seed)

    @torch.no_grad()
    def with_item_text(self, embeddings: Float[np.ndarray, "n_items dim"], projection: str, seed: int) -> Recommender:
        """Return the recommender itself, its item table made of text embeddings, with the spread that it had.

        Args:
            embeddings: One row an item, such as :func:`raydistill.models.item_text.embed_titles` gives.
            projection: ``none`` makes the table start from them, reduced to its width, and be trained as any other;
                ``linear`` makes it a trained linear map of them, so that an item that training has never seen has a
                row which its title gives it.
            seed: For dimensions that the table has beyond the embeddings'.

        Raises:
            ModelError: An unknown projection, or embeddings that do not fit.
        """
        if projection not in PROJECTIONS:
            raise ModelError(f"unknown projection '{projection}'", mend=f"use one of {', '.join(PROJECTIONS)}")
        if len(embeddings) != self.n_items:
            raise ModelError(
                f"there are {len(embeddings)} text embeddings for {self.n_items} items", mend="give one row an item"
            )
        table = self.backbone.get_input_embeddings().weight
        std = float(table[1 : self.n_items + 1].std())
        texts, matrix = (part.to(table) for part in text_map(embeddings, table.shape[1], std, seed))
        table[1 : self.n_items + 1] = texts @ matrix
        if projection == "linear":
            self.item_text = TextTable(texts, torch.cat([matrix, table[-1:]]))
            self.backbone.get_input_embeddings().requires_grad_(False)
        return self

    @torch.no_grad()
    def plain(self) -> Recommender:
        """Return a recommender with an ordinary item table that computes the same; itself, where it has one."""
        if self.item_text is None:
            return self
        backbone = deepcopy(self.backbone).requires_grad_(True)
        backbone.get_input_embeddings().weight.copy_(self.item_text())
        return Recommender(backbone, **self._settings()).train(self.training)

    @property
    def _table_name(self) -> str:
        table = self.backbone.get_input_embeddings().weight
        return next(name for name, parameter in self.backbone.named_parameters() if parameter is table)

    def _settings(self) -> dict:
        return {
            "n_items": self.n_items,
            "max_length": self.max_length,
            "causal": self.causal,
            "output_scale": self.output_scale,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the backbone as Hugging Face does, and beside it ``recommender.json``.

        A table out of texts is written as an ordinary one, and beside it the texts and their map.
        """
        folder = Path(folder)
        with quiet():
            self.plain().backbone.save_pretrained(folder)
        if self.item_text is not None:
            save_file(self.item_text.state_dict(), folder / TEXTS)
        record = {
            **self._settings(),
            "attention": self.backbone.config._attn_implementation,
            "item_text": self.item_text is not None,
        }
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Recommender:
        """Return the recommender that :meth:`save_pretrained` wrote, in eval mode.

        Raises:
            ModelError: The folder holds no recommender.
        """
        settings = read_record(
            folder, RECORD, "Recommender", {"n_items", "max_length", "causal", "output_scale", "attention"}
        )
        _, backbone = load_backbone(str(folder), dtype="auto", attention=settings.pop("attention"))
        if settings.pop("item_text", False):
            weights = read_weights(folder, TEXTS)
            settings["item_text"] = TextTable(weights["texts"], weights["map.weight"])
        return cls(backbone, **settings).eval()


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
    attention: str | None = None,
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
        attention: Attention implementation of transformers; the family's own by default (sdpa for all but Gemma 2).
        intermediate: Width inside the feed-forward part; four times ``hidden`` by default.
        config: Further keys of the family's configuration class.

    Raises:
        ModelError: Unknown family, or sizes that do not fit.
    """
    chosen = family_named(family)
    check_sizes(n_items=n_items, layers=layers, hidden=hidden, heads=heads, max_length=max_length)
    size = Size(n_items + 2, layers, hidden, heads, intermediate or 4 * hidden, dropout, max_length)
    with seeded(seed):
        backbone = random_backbone(chosen, size, attention=attention, further=config)
        replace_table(backbone, n_items + 2, chosen.table_std(backbone.config))
    return _recommender(chosen, backbone, n_items, max_length)


def _recommender(family: Family, backbone: PreTrainedModel, n_items: int, max_length: int) -> Recommender:
    return Recommender(
        backbone,
        n_items=n_items,
        max_length=max_length,
        causal=family.causal,
        output_scale=family.output_scale(backbone.config),
    ).train()


def recommender_from_pretrained(
    name_or_folder: str | Path,
    *,
    n_items: int,
    max_length: int,
    seed: int,
    dropout: float | None = None,
    trust_remote_code: bool = False,
) -> Recommender:
    """Return a pretrained checkpoint as a recommender: its blocks and positions, over a fresh item table, in float32.

    The item table gets the standard deviation of the token table that it replaces.

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
    check_sizes(n_items=n_items, max_length=max_length)
    family, backbone = load_backbone(
        str(name_or_folder), dtype=torch.float32, dropout=dropout, trust_remote_code=trust_remote_code
    )
    if family.pad_with_zero is not None:
        family.pad_with_zero(backbone)
    limit = family.position_limit(backbone.config)
    if limit is not None and max_length > limit:
        raise ModelError(
            f"the checkpoint covers {limit} positions, fewer than max_length {max_length}",
            where=str(name_or_folder),
            mend=f"set data.max_length to at most {limit}, or choose another checkpoint",
        )
    without_cache(backbone, None if family.causal else 0)
    std = float(backbone.get_input_embeddings().weight.detach().std())
    with seeded(seed):
        replace_table(backbone, n_items + 2, std)
    return _recommender(family, backbone, n_items, max_length)
