"""MovieLens, in the formats that GroupLens publishes (Harper & Konstan 2015).

``latest-small`` and ``32m`` are CSV; ``100k`` is ``u.data`` (tabs) and ``u.item`` (bars); ``1m`` is ``ratings.dat``
and ``movies.dat`` (``::``). A zip is read as it is: nothing is ever unpacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.data.interactions import RawData, interaction_batch, item_batch, provenance_of, store
from raydistill.data.sources.download import download
from raydistill.data.sources.interactions import split_attributes
from raydistill.data.sources.text import TextFile, csv_tables, require_columns, unreadable, zip_members
from raydistill.errors import DataError

ADDRESS = "https://files.grouplens.org/datasets/movielens"
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


@dataclass(frozen=True)
class Params:
    """Keys of the source ``movielens``.

    Attributes:
        variant: ``latest-small``, ``100k``, ``1m`` or ``32m``.
        path: Folder with GroupLens' files, or their zip; null downloads the zip to the cache.
    """

    variant: Literal["latest-small", "100k", "1m", "32m"]
    path: str | None = None


@dataclass(frozen=True)
class _Layout:
    """How GroupLens ships a variant: files, how to split rows, genres of a movie, MD5 of the zip, number of ratings."""

    ratings: str
    movies: str
    rating_columns: list[str] | None
    movie_columns: list[str] | None
    rating_separator: str
    movie_separator: str
    quote: str | None
    encoding: str
    genres: Callable[[pa.Table], pa.Array]
    md5: str | None
    n_ratings: int | None


def _genre_text(movies: pa.Table) -> pa.Array:
    return split_attributes(movies.column("genres").combine_chunks(), "|")


def _genre_text_or_none(movies: pa.Table) -> pa.Array:
    text = movies.column("genres").combine_chunks()
    empty = pa.scalar("", text.type)
    return split_attributes(pc.if_else(pc.equal(text, "(no genres listed)"), empty, text), "|")


def _genre_flags(movies: pa.Table) -> pa.Array:
    flags = np.stack([movies.column(name).to_numpy() == "1" for name in GENRES_100K], axis=1)
    offsets = np.concatenate([[0], np.cumsum(flags.sum(axis=1))]).astype(np.int32)
    names = pa.array(np.array(GENRES_100K, dtype=object)[np.nonzero(flags)[1]], pa.string())
    return pa.ListArray.from_arrays(pa.array(offsets), names)


def _csv(md5: str | None, n_ratings: int | None) -> _Layout:
    return _Layout("ratings.csv", "movies.csv", None, None, ",", ",", '"', "utf-8", _genre_text_or_none, md5, n_ratings)


_RATING_COLUMNS = ["userId", "movieId", "rating", "timestamp"]
_LAYOUTS = {
    # GroupLens renews this one now and then; the checksum is the one that lies beside the zip.
    "latest-small": _csv(None, None),
    "32m": _csv("d472be332d4daa821edc399621853b57", 32_000_204),
    "1m": _Layout(
        "ratings.dat", "movies.dat", _RATING_COLUMNS, ["movieId", "title", "genres"], "::", "::", None, "latin-1",
        _genre_text, "c4d9eecfca2ab87c1945afe126590906", 1_000_209,
    ),
    "100k": _Layout(
        "u.data", "u.item", _RATING_COLUMNS, ["movieId", "title", "released", "video", "imdb", *GENRES_100K],
        "\t", "|", None, "latin-1", _genre_flags, "0e33842e24a9c977be4e0107933c0723", 100_000,
    ),
}  # fmt: skip


def load(params: Params, cache: Path) -> RawData:
    """Return ratings as interactions, movies as items with genres as attributes; times are in seconds.

    Args:
        params: See :class:`Params`.
        cache: Folder for the download and the Arrow files.

    Raises:
        DataError: A file is missing, cut off or malformed, or the download failed.
    """
    layout = _LAYOUTS[params.variant]
    path = Path(params.path) if params.path else _downloaded(params.variant, layout, Path(cache))
    ratings, movies = _files(path, params.variant, layout)
    try:
        read = dict.fromkeys([ratings.path, movies.path])
        provenance = provenance_of("movielens", read, {"variant": params.variant}, time_unit="s")
    except OSError as error:
        raise unreadable(Path(error.filename or path), error) from error
    return store(cache, provenance, _interactions(ratings, layout), _items(movies, layout))


def _downloaded(variant: str, layout: _Layout, cache: Path) -> Path:
    name = f"ml-{variant}.zip"
    by_hand = f"download {ADDRESS}/{name} by hand and name it in data.path"
    return download(f"{ADDRESS}/{name}", cache / "downloads" / name, md5=layout.md5, by_hand=by_hand)


def _files(path: Path, variant: str, layout: _Layout) -> tuple[TextFile, TextFile]:
    names = (layout.ratings, layout.movies)
    if path.is_dir():
        folder = next((f for f in (path, path / f"ml-{variant}") if (f / layout.ratings).exists()), path)
        return TextFile(folder / names[0]), TextFile(folder / names[1])
    members = zip_members(path)
    missing = [name for name in names if name not in members]
    if missing:
        raise DataError(
            f"the archive has no {missing[0]}, which MovieLens {variant} has",
            where=str(path),
            mend=f"correct data.variant or data.path; the archive holds {', '.join(sorted(members)[:8])}",
        )
    return members[names[0]], members[names[1]]


def _interactions(file: TextFile, layout: _Layout) -> Iterator[pa.RecordBatch]:
    rows = 0
    tables = csv_tables(file, layout.rating_columns, delimiter=layout.rating_separator, quote=layout.quote)
    for table, block in tables:
        require_columns({name: name for name in _RATING_COLUMNS}, table.column_names, f"{file.name}, line 1")
        columns = [table.column(name).combine_chunks() for name in ("userId", "movieId", "timestamp", "rating")]
        yield interaction_batch(*columns, block.where)
        rows += table.num_rows
    if layout.n_ratings is not None and rows != layout.n_ratings:
        raise DataError(
            f"there are {rows:,} ratings instead of the published {layout.n_ratings:,}; the file is cut off or changed",
            where=file.name,
            mend="download it again; a part of MovieLens that is meant can be read with source: interactions, from CSV",
        )


def _items(file: TextFile, layout: _Layout) -> Iterator[pa.RecordBatch]:
    options = {"delimiter": layout.movie_separator, "quote": layout.quote, "encoding": layout.encoding}
    for table, block in csv_tables(file, layout.movie_columns, **options):
        require_columns({"movieId": "movieId", "title": "title"}, table.column_names, f"{file.name}, line 1")
        yield item_batch(table.column("movieId"), table.column("title"), layout.genres(table), block.where)
