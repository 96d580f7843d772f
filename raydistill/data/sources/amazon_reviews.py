"""Amazon reviews: the 2023 edition (Hou et al. 2024) by category, and the 2014 and 2018 editions.

Local files keep their published names: ``All_Beauty.jsonl`` with ``meta_All_Beauty.jsonl`` (2023),
``All_Beauty_5.json.gz`` (2018, 5-core), ``reviews_Beauty_5.json.gz`` with ``meta_Beauty.json.gz`` (2014); each plain or
gzipped. Without a path the 2023 files come from the Hugging Face hub, file by file: that data set's loading script is
code of others, and is never run.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.data.interactions import ITEMS, RawData, interaction_batch, item_batch, provenance_of, store
from raydistill.data.sources.text import TextFile, blocks, json_fields, json_tables, unreadable
from raydistill.errors import DataError

REPOSITORY = "McAuley-Lab/Amazon-Reviews-2023"
CATEGORIES = (
    "All_Beauty", "Amazon_Fashion", "Appliances", "Arts_Crafts_and_Sewing", "Automotive", "Baby_Products",
    "Beauty_and_Personal_Care", "Books", "CDs_and_Vinyl", "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry",
    "Digital_Music", "Electronics", "Gift_Cards", "Grocery_and_Gourmet_Food", "Handmade_Products",
    "Health_and_Household", "Health_and_Personal_Care", "Home_and_Kitchen", "Industrial_and_Scientific",
    "Kindle_Store", "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments", "Office_Products",
    "Patio_Lawn_and_Garden", "Pet_Supplies", "Software", "Sports_and_Outdoors", "Subscription_Boxes",
    "Tools_and_Home_Improvement", "Toys_and_Games", "Unknown", "Video_Games",
)  # fmt: skip


@dataclass(frozen=True)
class Params:
    """Keys of the source ``amazon_reviews``.

    Attributes:
        categories: Names such as ``[All_Beauty, Video_Games]``, or ``all``.
        path: Folder with the files, or null for the Hugging Face hub (edition 2023).
        metadata: Read titles, brands and categories of the items as well. A local meta file may be absent.
    """

    categories: tuple[str, ...] | Literal["all"]
    path: str | None = None
    metadata: bool = True

    def __post_init__(self) -> None:
        if not self.categories or (self.categories != "all" and len(set(self.categories)) < len(self.categories)):
            raise DataError(
                "the categories are none, or one of them is named twice",
                where="data.categories",
                mend="name each category once, or all of them with: all",
            )


@dataclass(frozen=True)
class _Edition:
    """Field names of an edition: reviews, then items; ``lists`` and ``words`` become attributes."""

    user: str
    item: str
    rating: str
    timestamp: str
    time_unit: str
    words: tuple[str, ...]
    lists: tuple[str, ...]


_EDITIONS = (
    _Edition("user_id", "parent_asin", "rating", "timestamp", "ms", ("main_category", "store"), ("categories",)),
    _Edition("user_id", "asin", "rating", "timestamp", "ms", ("main_category", "store"), ("categories",)),
    _Edition("reviewerID", "asin", "overall", "unixReviewTime", "s", ("brand",), ("category",)),
)


def load(params: Params, cache: Path) -> RawData:
    """Return reviews as interactions; an item is a product with all its variants (``parent_asin``) where that is known.

    Args:
        params: See :class:`Params`.
        cache: Folder for the Arrow files; the hub keeps its own cache.

    Raises:
        DataError: A file is missing, cut off or malformed, a category is unknown, or the hub cannot be reached.
    """
    pairs = _local(params) if params.path else _from_hub(params)
    reviews = [TextFile(review) for review, _ in pairs]
    metas = [TextFile(meta) for _, meta in pairs if meta is not None]
    editions = {_edition(file) for file in reviews}
    if len(editions) > 1:
        raise DataError(
            "the review files are of several editions, whose ids and times do not fit together",
            where=", ".join(file.name for file in reviews),
            mend="keep one edition in the folder",
        )
    edition = editions.pop()
    files = [file.path for file in (*reviews, *metas)]
    parameters = {"item": edition.item, "categories": len(reviews)}
    try:
        provenance = provenance_of("amazon_reviews", files, parameters, time_unit=edition.time_unit)
    except OSError as error:
        raise unreadable(Path(error.filename or files[0]), error) from error
    interactions = (batch for file in reviews for batch in _reviews(file, edition))
    return store(cache, provenance, interactions, (batch for file in metas for batch in _items(file, edition)))


def _local(params: Params) -> list[tuple[Path, Path | None]]:
    """Return the files of reviews, and of items where there are any, in the folder or in its parts as on the hub."""
    root = Path(params.path)
    if not root.is_dir():
        raise DataError(
            "the path is no folder",
            where=str(root),
            mend="name the folder in data.path, and what to read from it in data.categories",
        )
    folders = [root, root / "raw" / "review_categories", root / "raw" / "meta_categories"]
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    named: dict[str, Path] = {}
    for path in files:
        name = _name(path)
        if name is not None and named.setdefault(name, path) != path:
            raise DataError(
                f"two files hold the same category: {named[name].relative_to(root)} and {path.relative_to(root)}",
                where=str(root),
                mend="take one of them away: of the 2018 and 2014 editions there is a whole file and its 5-core",
            )
    reviews = {name: path for name, path in named.items() if not name.startswith("meta_")}
    wanted = sorted(reviews) if params.categories == "all" else params.categories
    missing = [name for name in wanted if name not in reviews] or (["*"] if not wanted else [])
    if missing:
        close = difflib.get_close_matches(missing[0], reviews, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise DataError(
            f"there are no reviews {missing[0]}.jsonl",
            where=str(root),
            mend=f"{hint}The folder has {', '.join(sorted(reviews)[:12]) or 'no reviews'}; {_by_hand(missing[0])}",
        )
    return [(reviews[name], named.get(f"meta_{name}") if params.metadata else None) for name in wanted]


def _name(path: Path) -> str | None:
    """Return the category of a file of reviews, or ``meta_`` and the category of a file of items; else None."""
    match = re.fullmatch(r"(?:reviews_)?(.+?)(?:_5)?\.jsonl?(?:\.gz)?", path.name)
    return match.group(1) if match else None


def _from_hub(params: Params) -> list[tuple[Path, Path | None]]:
    """Return the files of the 2023 edition from the Hugging Face hub, or from its cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = CATEGORIES if params.categories == "all" else params.categories
    pairs = []
    for name in wanted:
        if name not in CATEGORIES:
            close = difflib.get_close_matches(name, CATEGORIES, n=1)
            mend = f"did you mean {close[0]}? " if close else ""
            mend += f"The categories are {', '.join(CATEGORIES)}"
            raise DataError(f"there is no category {name!r}", where="data.categories", mend=mend)
        names = [f"raw/review_categories/{name}.jsonl"]
        names += [f"raw/meta_categories/meta_{name}.jsonl"] if params.metadata else []
        try:
            paths = [Path(hf_hub_download(REPOSITORY, file, repo_type="dataset")) for file in names]
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(
                f"{name} cannot be had from the Hugging Face hub: {reason}", where=REPOSITORY, mend=_by_hand(name)
            ) from error
        pairs.append((paths[0], paths[1] if params.metadata else None))
    return pairs


def _by_hand(name: str) -> str:
    address = f"https://huggingface.co/datasets/{REPOSITORY}"
    return (
        f"download raw/review_categories/{name}.jsonl and raw/meta_categories/meta_{name}.jsonl from {address} "
        "into one folder and name it in data.path"
    )


def _edition(file: TextFile) -> _Edition:
    present = json_fields(file)
    for edition in _EDITIONS:
        if edition.user in present and edition.item in present:
            return edition
    raise DataError(
        "the file holds no Amazon reviews",
        where=file.name,
        mend=f"expected are user_id and parent_asin (2023) or reviewerID and asin; found are {', '.join(present)}",
    )


def _reviews(file: TextFile, edition: _Edition) -> Iterator[pa.RecordBatch]:
    schema = pa.schema(
        [
            (edition.user, pa.string()),
            (edition.item, pa.string()),
            (edition.rating, pa.float64()),
            (edition.timestamp, pa.int64()),
        ]
    )
    for table, block in json_tables(file, schema):
        columns = [table.column(name) for name in (edition.user, edition.item, edition.timestamp, edition.rating)]
        yield interaction_batch(*columns, block.where)


def _items(file: TextFile, edition: _Edition) -> Iterator[pa.RecordBatch]:
    if _is_python(file):
        yield from _python_items(file)
        return
    present = json_fields(file)
    words = [name for name in edition.words if name in present]
    lists = [name for name in edition.lists if name in present]
    schema = pa.schema(
        [(edition.item, pa.string()), ("title", pa.string())]
        + [(name, pa.string()) for name in words]
        + [(name, pa.list_(pa.string())) for name in lists]
    )
    for table, block in json_tables(file, schema):
        attributes = join_lists([table.column(name) for name in words + lists])
        yield item_batch(table.column(edition.item), table.column("title"), attributes, block.where)


def join_lists(columns: list[pa.ChunkedArray]) -> pa.Array | None:
    """Return, row by row, the non-empty values of columns of strings and of lists of strings, as one list."""
    if not columns:
        return None
    rows, values = [], []
    for column in columns:
        array = column.combine_chunks()
        if pa.types.is_list(array.type):
            rows.append(pc.list_parent_indices(array).to_numpy())
            values.append(pc.list_flatten(array))
        else:
            rows.append(np.arange(len(array)))
            values.append(array)
    row, value = np.concatenate(rows), pa.concat_arrays(values)
    filled = pc.fill_null(pc.not_equal(value, ""), False).to_numpy(zero_copy_only=False)
    order = np.flatnonzero(filled)
    order = order[np.argsort(row[order], kind="stable")]
    lengths = np.bincount(row[order], minlength=len(columns[0]))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), value.take(pa.array(order)))


def _is_python(file: TextFile) -> bool:
    """Return whether a file of items is of the 2014 edition: lines of Python dictionaries, which are no JSON."""
    for block in blocks(file):
        return block.data.lstrip().startswith(b"{'")
    return False


def _python_items(file: TextFile) -> Iterator[pa.RecordBatch]:
    # A file of this edition has no faster reader than this loop over its lines. Only literals are
    # read: nothing in the file is run.
    for block in blocks(file):
        items, titles, attributes = [], [], []
        for number, line in enumerate(block.data.decode().split("\n")):
            if not line.strip():
                continue
            try:
                row = ast.literal_eval(line.strip())
                items.append(str(row["asin"]))
            except (ValueError, SyntaxError, RecursionError, MemoryError, KeyError, TypeError) as error:
                raise DataError(
                    f"the line is no Python dictionary with an asin: {error!r}",
                    where=block.line(number),
                    mend="correct or drop the line; the file may be cut off",
                ) from error
            titles.append(str(row.get("title") or ""))
            paths = row.get("categories") or []
            names = [str(name) for path in paths for name in (path if isinstance(path, list) else [path])]
            attributes.append(([str(row["brand"])] if row.get("brand") else []) + list(dict.fromkeys(names)))
        yield item_batch(
            pa.array(items, pa.string()),
            pa.array(titles, pa.string()),
            pa.array(attributes, ITEMS.field(2).type),
            block.where,
        )
