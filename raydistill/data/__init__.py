"""Data: sources give raw interactions, preparation turns them into split sequences."""

from raydistill.data.interactions import RawData, interaction_batch, item_batch, provenance_of, store
from raydistill.data.items import write_items
from raydistill.data.preparation import prepare
from raydistill.data.splits import SPLITS, SequenceData
from raydistill.data.statistics import render_statistics

__all__ = [
    "SPLITS",
    "RawData",
    "SequenceData",
    "interaction_batch",
    "item_batch",
    "prepare",
    "provenance_of",
    "render_statistics",
    "store",
    "write_items",
]
