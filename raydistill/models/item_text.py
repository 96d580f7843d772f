"""Item tables out of what items are called: a text encoder's embeddings of their titles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from raydistill.errors import ModelError
from raydistill.models.checkpoint import load_backbone, seeded
from raydistill.models.pooling import pooled
from raydistill.models.tokenizer import fit_vocabulary, load_tokenizer
from raydistill.seeding import stream_seed

PROJECTIONS = ("none", "linear")
"""``none``: the table starts from the texts and is trained as any; ``linear``: a linear map of the texts is trained."""


@torch.inference_mode()
def embed_titles(
    titles: Sequence[str], encoder: str, *, batch_size: int = 64, max_tokens: int = 32
) -> Float[np.ndarray, "titles dim"]:
    """Return a text encoder's embedding of each title, float32: the mean of its final states over the title's tokens.

    An empty title gets the mean of the others: what is known of an item of which nothing is known.

    Args:
        titles: The titles.
        encoder: A model name on the Hugging Face hub, or a folder.
        batch_size: Titles at a time; it decides neither the order nor, but for rounding, the result.
        max_tokens: Titles are cut after so many tokens.

    Raises:
        ModelError: The encoder or its tokenizer cannot be used, or all titles are empty.
    """
    tokenizer = load_tokenizer(encoder)
    family, backbone = load_backbone(encoder, dtype=torch.float32)
    fit_vocabulary(backbone, tokenizer, seed=0)
    limit = family.position_limit(backbone.config)
    tokens = tokenizer(list(titles), truncation=True, max_length=min(max_tokens, limit or max_tokens))["input_ids"]
    empty = np.array([not (title.strip() and row) for title, row in zip(titles, tokens, strict=True)], dtype=bool)
    if empty.all():
        raise ModelError("no item has a title", where="item_text", mend="use a data source with titles")
    lengths = np.array([len(row) for row in tokens])
    order = [i for i in np.argsort(lengths, kind="stable") if not empty[i]]
    result = np.empty((len(titles), backbone.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer.pad({"input_ids": [tokens[i] for i in rows]}, return_tensors="pt")
        mask = batch["attention_mask"]
        states = backbone.eval()(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        result[rows] = pooled(states, mask, "mean").numpy()
    result[empty] = result[~empty].mean(axis=0)
    return result


class TextTable(nn.Module):
    """Item table that is a linear map of frozen text embeddings, so that items never seen have a row like any other.

    Args:
        texts: Text embeddings of the items, centred.
        start: The map to start from, and the mask item's row after it.
    """

    def __init__(self, texts: Float[Tensor, "n_items dim"], start: Float[Tensor, "rows hidden"]) -> None:
        super().__init__()
        self.register_buffer("texts", texts)
        # Its rows are added up with the texts' entries as weights: parameters of an embedding, and counted as such.
        self.map = nn.Embedding.from_pretrained(start, freeze=False)

    def forward(self) -> Float[Tensor, "rows hidden"]:
        """Return the whole table: padding, items, mask item."""
        weight = self.map.weight
        return torch.cat([torch.zeros_like(weight[:1]), self.texts @ weight[:-1], weight[-1:]])

    def copy(self) -> TextTable:
        """Return a table with a map of its own over the same texts, which are large and never change."""
        return TextTable(self.texts, self.map.weight.detach().clone())


def text_map(
    embeddings: Float[np.ndarray, "n_items dim"], hidden: int, std: float, seed: int
) -> tuple[Float[Tensor, "n_items dim"], Float[Tensor, "dim hidden"]]:
    """Return the centred embeddings and a map by which they get ``hidden`` dimensions and the standard deviation.

    The map is onto the principal components, so inner products between items stay as near as they can to those of the
    embeddings. Where these have fewer dimensions than ``hidden``, the other columns of the map are random.

    Args:
        embeddings: Text embeddings.
        hidden: Width of the item table.
        std: Standard deviation of the table's entries.
        seed: For the random columns.

    Raises:
        ModelError: Embeddings that are not finite, or all the same.
    """
    values = np.asarray(embeddings, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ModelError("the items' text embeddings are not finite", where="item_text", mend="use another encoder")
    centred = values - values.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, ::-1][:, :hidden]
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    n_random = hidden - directions.shape[1]
    with seeded(stream_seed(seed, "item text")):
        further = torch.randn(directions.shape[0], n_random, dtype=torch.float64) / directions.shape[0] ** 0.5
    matrix = torch.cat([torch.from_numpy(directions), further], dim=1)
    texts = torch.from_numpy(centred)
    spread = float((texts @ matrix).std())
    if spread < 1e-12:
        raise ModelError("all items have the same text embedding", where="item_text", mend="use data with titles")
    return texts.float(), (matrix * (std / spread)).float()
