"""Item tables that begin with what items are called: the section `item_text` of a sweep of item sequences."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from raydistill.config import artifact_identity
from raydistill.data.splits import SequenceData
from raydistill.errors import CorruptArtifactError
from raydistill.models.checkpoint import content_of, read_config
from raydistill.models.item_text import embed_titles
from raydistill.training.stored_arrays import open_arrays, write_arrays

EMBEDDINGS = "embeddings"


@dataclass(frozen=True)
class ItemText:
    """Where the item table comes from.

    Attributes:
        encoder: Text encoder of the titles: a folder, a model on the hub, or ``package:NAME/FOLDER``.
        projection: ``linear``: the table is a trained linear map of the titles' embeddings, so that items never seen
            in training can be ranked; ``none``: it only starts from them.
        max_tokens: Titles are cut after so many tokens.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    encoder: str
    projection: Literal["linear", "none"] = "linear"
    max_tokens: int = 32

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")


def title_embeddings(data: SequenceData, settings: ItemText) -> Float[np.ndarray, "n_items dim"]:
    """Return the embedding of each item's title, made once and kept beside the prepared data.

    Args:
        data: Prepared sequences.
        settings: The section.

    Raises:
        ModelError: The encoder cannot be used, or no item has a title.
    """
    folder: Path | None = None
    if data.folder is not None:
        read_config(settings.encoder)  # brings a checkpoint of the hub, or says why it cannot
        content = {"data": data.hash, "encoder": content_of(settings.encoder), "max_tokens": settings.max_tokens}
        folder = data.folder.with_name(f"item-text-{artifact_identity('item_text', content)}")
        with contextlib.suppress(CorruptArtifactError):
            return open_arrays(folder, verify=False)[EMBEDDINGS]
    titles = [title or "" for title in list(data.titles)[1:]]
    embeddings = embed_titles(titles, settings.encoder, max_tokens=settings.max_tokens)
    if folder is not None:
        write_arrays(folder, {EMBEDDINGS: embeddings})
    return embeddings
