"""Every format of every source, on small files that the tests write."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import gzip
import hashlib
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydistill.data import RawData, prepare
from raydistill.data.sources import SOURCES, download, movielens, text
from raydistill.errors import DataError

ROWS = [("1", "10", 4.0, 100), ("1", "20", 3.5, 90), ("2", "10", 5.0, 120), ("3", "30", 1.0, 130)]


def load(source: str, cache: Path, *args, **kwargs) -> RawData:
    return SOURCES[source].load(SOURCES[source].params(*args, **kwargs), cache)


def rows_of(raw: RawData) -> list[tuple]:
    return [(r["user"], r["item"], r["rating"], r["timestamp"]) for r in raw.interactions]


def items_of(raw: RawData) -> dict[str, tuple]:
    return {r["item"]: (r["title"], r["attributes"]) for r in raw.items}


@pytest.fixture(params=["one block", "blocks of a few bytes"])
def block_size(request, monkeypatch):
    if request.param != "one block":
        monkeypatch.setattr(text, "BLOCK_BYTES", 16)


def movielens_files(variant: str) -> dict[str, bytes]:
    if variant in ("latest-small", "32m"):
        ratings = "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in ROWS)
        movies = 'movieId,title,genres\r\n10,"Été, L\' (1995)",Comedy|Drama\r\n'
        movies += '20,Plain,(no genres listed)\r\n30,"A ""B""",War\r\n'
        return {"ratings.csv": ratings.encode(), "movies.csv": movies.encode()}
    if variant == "1m":
        ratings = "".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in ROWS)
        movies = '10::Été, L\' (1995)::Comedy|Drama\n20::Plain::\n30::A "B"::War\n'
        return {"ratings.dat": ratings.encode(), "movies.dat": movies.encode("latin-1")}
    ratings = "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in ROWS)
    flags = {name: "|".join("1" if g in genres else "0" for g in movielens.GENRES_100K)
             for name, genres in {"10": ("Comedy", "Drama"), "20": (), "30": ("War",)}.items()}  # fmt: skip
    movies = f"10|Été, L' (1995)|01-Jan-1995||http://x|{flags['10']}\n"
    movies += f'20|Plain||||{flags["20"]}\n30|A "B"||||{flags["30"]}\n'
    return {"u.data": ratings.encode(), "u.item": movies.encode("latin-1")}


def published(monkeypatch, variant: str, n_ratings: int) -> None:
    layout = dataclasses.replace(movielens._LAYOUTS[variant], n_ratings=n_ratings)
    monkeypatch.setitem(movielens._LAYOUTS, variant, layout)


def test_movielens_that_lacks_rows_is_not_taken_for_the_published_data(tmp_path):
    for name, content in movielens_files("1m").items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="4 ratings instead of the published 1,000,209"):
        load("movielens", tmp_path / "cache", "1m", str(tmp_path))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("variant", ["latest-small", "100k", "1m", "32m"])
def test_movielens(tmp_path, monkeypatch, block_size, variant, packed):
    published(monkeypatch, variant, len(ROWS))
    files = movielens_files(variant)
    path = tmp_path / ("ml.zip" if packed else "ml")
    if packed:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {**files, "README": b"hello"}.items():
                archive.writestr(f"ml-{variant}/{name}", content)
    else:
        path.mkdir()
        for name, content in files.items():
            (path / name).write_bytes(content)
    raw = load("movielens", tmp_path / "cache", variant, str(path))
    assert rows_of(raw) == ROWS
    assert items_of(raw) == {
        "10": ("Été, L' (1995)", ["Comedy", "Drama"]),
        "20": ("Plain", []),
        "30": ('A "B"', ["War"]),
    }
    assert raw.provenance["time_unit"] == "s"
    assert not any(str(tmp_path) in str(value) for value in raw.provenance.values())


class Response(io.BytesIO):
    url = "https://files.grouplens.org/x"


def forbidden(path: Path) -> str:
    raise PermissionError(13, "Permission denied", str(path))


def test_movielens_downloads_once_with_the_checksum(tmp_path, monkeypatch):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in movielens_files("latest-small").items():
            archive.writestr(f"ml-latest-small/{name}", data)
    checksum = hashlib.md5(content.getvalue()).hexdigest()
    asked = []

    def serve(url, timeout):
        asked.append(url)
        return Response(f"MD5 (ml.zip) = {checksum}\n".encode() if url.endswith(".md5") else content.getvalue())

    monkeypatch.setattr(download.urllib.request, "urlopen", serve)
    assert rows_of(load("movielens", tmp_path, "latest-small")) == ROWS
    assert rows_of(load("movielens", tmp_path, "latest-small")) == ROWS
    assert [url.rsplit("/", 1)[1] for url in asked] == ["ml-latest-small.zip.md5", "ml-latest-small.zip"]
    archive = tmp_path / "downloads" / "ml-latest-small.zip"
    assert archive.stat().st_mode & 0o777 == 0o644  # others share the storage
    with monkeypatch.context() as patch:
        patch.setattr(download, "_md5", forbidden)
        with pytest.raises(DataError, match="an earlier download cannot be read"):
            load("movielens", tmp_path, "latest-small")
    monkeypatch.setattr(movielens, "_LAYOUTS", {"1m": movielens._LAYOUTS["1m"]})
    with pytest.raises(DataError, match="checksum"):
        load("movielens", tmp_path, "1m")
    assert not (tmp_path / "downloads" / "ml-1m.zip").exists()


def test_download_refuses_a_redirect_away_from_https(tmp_path, monkeypatch):
    response = Response(b"x")
    response.url = "http://elsewhere/x"
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda url, timeout: response)
    with pytest.raises(DataError, match="redirected"):
        load("movielens", tmp_path, "1m")


def amazon_2023(user, item, rating, time):
    return {"rating": rating, "title": "ok", "text": 'a "b"\nc', "images": [], "asin": "v" + item, "parent_asin": item,
            "user_id": user, "timestamp": time, "helpful_vote": 0, "verified_purchase": True}  # fmt: skip


AMAZON_META = [
    {"main_category": "All Beauty", "title": "Soap", "store": "Lux", "categories": ["Bath", "Soap"],
     "parent_asin": "10", "price": None},
    {"main_category": None, "title": "Oil", "store": None, "categories": [], "parent_asin": "20", "price": "12.5"},
]  # fmt: skip


def write_lines(path: Path, rows: list[dict]) -> None:
    opener = gzip.open if path.suffix == ".gz" else open
    path.parent.mkdir(parents=True, exist_ok=True)
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("categories", ["all", ("All_Beauty", "Video_Games")])
def test_amazon_2023(tmp_path, block_size, suffix, categories):
    write_lines(tmp_path / f"All_Beauty{suffix}", [amazon_2023(*row) for row in ROWS[:2]])
    write_lines(tmp_path / f"Video_Games{suffix}", [amazon_2023(*row) for row in ROWS[2:]])
    write_lines(tmp_path / f"meta_All_Beauty{suffix}", AMAZON_META)
    raw = load("amazon_reviews", tmp_path / "cache", categories, str(tmp_path))
    assert rows_of(raw) == ROWS
    assert items_of(raw) == {"10": ("Soap", ["All Beauty", "Lux", "Bath", "Soap"]), "20": ("Oil", [])}
    assert raw.provenance["time_unit"] == "ms"
    assert len(load("amazon_reviews", tmp_path / "cache", ("All_Beauty",), str(tmp_path)).interactions) == 2


def test_amazon_as_the_hub_lays_it_out(tmp_path):
    write_lines(tmp_path / "raw/review_categories/Software.jsonl", [amazon_2023(*row) for row in ROWS])
    write_lines(tmp_path / "raw/meta_categories/meta_Software.jsonl", AMAZON_META)
    raw = load("amazon_reviews", tmp_path / "cache", ("Software",), str(tmp_path))
    assert rows_of(raw) == ROWS
    assert len(raw.items) == 2


def test_amazon_2018(tmp_path):
    rows = [{"overall": r, "reviewerID": u, "asin": i, "unixReviewTime": t, "style": {"a": "b"}} for u, i, r, t in ROWS]
    write_lines(tmp_path / "All_Beauty_5.json.gz", rows)
    write_lines(
        tmp_path / "meta_All_Beauty.json.gz", [{"asin": "10", "title": "Soap", "brand": "Lux", "category": ["Bath"]}]
    )
    raw = load("amazon_reviews", tmp_path / "cache", ("All_Beauty",), str(tmp_path))
    assert rows_of(raw) == ROWS
    assert items_of(raw) == {"10": ("Soap", ["Lux", "Bath"])}


def test_amazon_2014_metadata_is_read_and_never_run(tmp_path):
    write_lines(tmp_path / "reviews_Beauty_5.json", [
        {"reviewerID": u, "asin": i, "overall": r, "unixReviewTime": t} for u, i, r, t in ROWS])  # fmt: skip
    meta = tmp_path / "meta_Beauty.json"
    meta.write_text(
        "{'asin': '10', 'title': \"Soap's\", 'categories': [['Beauty', 'Bath'], ['Beauty']], 'brand': 'Lux'}\n"
    )
    raw = load("amazon_reviews", tmp_path / "cache", ("Beauty",), str(tmp_path))
    assert rows_of(raw) == ROWS
    assert items_of(raw) == {"10": ("Soap's", ["Lux", "Beauty", "Bath"])}
    trap = tmp_path / "trap"
    meta.write_text("{'asin': '10'}\n" + f"{{'asin': open({str(trap)!r}, 'w')}}\n")
    with pytest.raises(DataError, match="no Python dictionary") as caught:
        load("amazon_reviews", tmp_path / "cache", ("Beauty",), str(tmp_path))
    assert "line 2" in caught.value.where
    assert not trap.exists()


def test_amazon_names_what_to_download_where_the_hub_is_out_of_reach(tmp_path, monkeypatch):
    import huggingface_hub

    def unreachable(repository, file, repo_type):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(DataError, match="Software cannot be had") as caught:
        load("amazon_reviews", tmp_path, ("Software",))
    assert "raw/review_categories/Software.jsonl" in caught.value.mend
    with pytest.raises(DataError, match="no category") as caught:
        load("amazon_reviews", tmp_path, ("Sofware",))
    assert "did you mean Software?" in caught.value.mend


def test_amazon_reads_what_the_hub_gives(tmp_path, monkeypatch):
    import huggingface_hub

    write_lines(tmp_path / "raw/review_categories/Software.jsonl", [amazon_2023(*row) for row in ROWS])
    write_lines(tmp_path / "raw/meta_categories/meta_Software.jsonl", AMAZON_META)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, file, repo_type: str(tmp_path / file))
    assert rows_of(load("amazon_reviews", tmp_path / "cache", ("Software",))) == ROWS


def test_sequences(tmp_path, block_size):
    path = tmp_path / "data.txt"
    path.write_text("7 3 1 3 2\n\n9 5 6\n8  4 3  1")
    (tmp_path / "attributes.json").write_text('{"3": [1, 2], "77": [5]}')
    raw = load("sequences", tmp_path / "cache", str(path), str(tmp_path / "attributes.json"))
    expected = {"7": "3132", "9": "56", "8": "431"}
    assert rows_of(raw) == [(u, i, None, n) for u, items in expected.items() for n, i in enumerate(items)]
    data = prepare(raw, split="leave_one_out", min_interactions=1, folder=tmp_path / "p", duplicates="keep")
    found = [data.items[data.offsets[u] : data.offsets[u + 1]] for u in range(3)]
    assert ["".join(data.item_ids[i] for i in part) for part in found] == list(expected.values())
    assert data.attributes[list(data.item_ids).index("3")] == ["1", "2"]


NAMED = {"user": "who", "item": "what", "timestamp": "when", "rating": "stars"}


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "parquet", "semicolon"])
def test_interactions(tmp_path, block_size, kind):
    path = tmp_path / ("data.csv" if kind == "semicolon" else f"data.{kind}")
    records = [{"extra": "x,y", "when": t, "who": u, "stars": r, "what": i} for u, i, r, t in ROWS]
    separator = {"tsv": "\t", "semicolon": ";"}.get(kind, ",")
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=3)
    elif kind.startswith("jsonl"):
        write_lines(path, records)
    else:
        with (gzip.open if kind.endswith("gz") else open)(path, "wt", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(records)
    delimiter = ";" if kind == "semicolon" else None
    raw = load("interactions", tmp_path / "cache", str(path), **NAMED, delimiter=delimiter)
    assert rows_of(raw) == ROWS
    unrated = load("interactions", tmp_path / "cache", str(path), **{**NAMED, "rating": None}, delimiter=delimiter)
    assert {row[2] for row in rows_of(unrated)} == {None}


def test_interactions_with_items_and_other_types(tmp_path):
    path, items = tmp_path / "log.parquet", tmp_path / "items.csv"
    moments = pa.array([datetime.datetime(2020, 1, 1, 0, 0, s) for s in (3, 1, 2)], pa.timestamp("ns"))
    pq.write_table(
        pa.table({"user": pa.array([1, 1, 2], pa.int32()), "item": [5.0, 6.0, 5.0], "timestamp": moments}), path
    )
    items.write_text("\ufeffitem,name,tags\n5,Five,a;b\n6,Six,\n", encoding="utf-8")
    raw = load("interactions", tmp_path / "cache", str(path), items=str(items), title="name", attributes="tags",
               attribute_separator=";")  # fmt: skip
    assert [row[:2] for row in rows_of(raw)] == [("1", "5"), ("1", "6"), ("2", "5")]
    assert [row[3] - rows_of(raw)[1][3] for row in rows_of(raw)] == [2_000_000, 0, 1_000_000]
    assert items_of(raw) == {"5": ("Five", ["a", "b"]), "6": ("Six", [])}


def test_json_lines_whose_first_row_lacks_what_others_have(tmp_path):
    path, items = tmp_path / "log.jsonl", tmp_path / "items.jsonl"
    write_lines(path, [{"user": u, "item": i, "timestamp": t} for u, i, t in (("a", 1, 1), ("a", 2, 2), ("a", 3, 3))])
    write_lines(
        items,
        [{"item": 1, "tags": None}, {"item": 2, "name": "Two", "tags": ["x", None]}, {"item": 3, "tags": ["y", "z"]}],
    )
    raw = load("interactions", tmp_path / "cache", str(path), items=str(items), title="name", attributes="tags")
    assert items_of(raw) == {"1": ("", None), "2": ("Two", ["x"]), "3": ("", ["y", "z"])}
    data = prepare(raw, split="leave_one_out", min_interactions=1, folder=tmp_path / "prepared")
    assert dict(zip(data.item_ids, map(list, data.attributes), strict=True))["2"] == ["x"]


def test_amazon_refuses_two_files_of_one_category(tmp_path):
    for name in ("All_Beauty.json.gz", "All_Beauty_5.json.gz"):
        write_lines(tmp_path / name, [amazon_2023(*row) for row in ROWS])
    with pytest.raises(DataError, match=r"All_Beauty\.json\.gz and All_Beauty_5\.json\.gz"):
        load("amazon_reviews", tmp_path / "cache", ("All_Beauty",), str(tmp_path))


def test_equal_files_in_other_places_are_the_same_data(tmp_path):
    hashes = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.txt").write_text("1 2 3 4\n2 3 4 2\n")
        raw = load("sequences", tmp_path / f"cache {name}", str(tmp_path / name / "data.txt"))
        data = prepare(raw, split="leave_one_out", min_interactions=1, folder=tmp_path / name / "p")
        hashes.add((data.hash, json.dumps(data.provenance)))
    assert len(hashes) == 1


def test_the_table_is_cheap_to_import():
    import subprocess
    import sys

    code = (
        "import sys; from raydistill.data.sources import SOURCES; "
        "assert len(SOURCES) == 5; print([m for m in ('torch', 'datasets', 'pandas', 'ray') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
