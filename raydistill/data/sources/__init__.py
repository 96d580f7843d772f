"""The table of data sources: one file a source, each with ``Params`` and ``load(params, cache) -> RawData``.

Importing the table is cheap: no torch, and ``datasets`` only when data are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill.data.interactions import RawData
from raydistill.data.sources import amazon_reviews, interactions, movielens, sequences, synthetic


@dataclass(frozen=True)
class Source:
    """One line of the table.

    Attributes:
        params: Frozen dataclass whose fields are the source's own keys under ``data`` in a sweep file.
        load: Gives the raw data for an instance of ``params``; files are kept under the folder ``cache``.
    """

    params: type
    load: Callable[[Any, Path], RawData]


SOURCES: dict[str, Source] = {
    "synthetic": Source(synthetic.Params, synthetic.load),
    "movielens": Source(movielens.Params, movielens.load),
    "amazon_reviews": Source(amazon_reviews.Params, amazon_reviews.load),
    "sequences": Source(sequences.Params, sequences.load),
    "interactions": Source(interactions.Params, interactions.load),
}
