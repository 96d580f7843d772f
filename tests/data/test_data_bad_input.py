"""Bad input: one clear error each, with the place and the mend, and nothing left behind."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydistill.data.sources import SOURCES, text
from raydistill.errors import DataError

HEAD = "user,item,timestamp,rating\n"
GOOD = HEAD + "a,x,1,5\n" * 30


def refused(source: str, cache: Path, *args, **kwargs) -> DataError:
    with pytest.raises(DataError) as caught:
        SOURCES[source].load(SOURCES[source].params(*args, **kwargs), cache)
    assert caught.value.mend, "an error has to say what to do"
    assert not [p for p in cache.glob("raw/*") if p.is_dir()], "nothing may be left behind"
    return caught.value


CSV = {
    "short row": (HEAD + "a,x,1,5\nb,y,2\n", "3 fields instead of 4", "line 3"),
    "long row": (HEAD + "a,x,1,5\n\nb,y,2,3,4\n", "5 fields instead of 4", "line 4"),
    "cut off": (GOOD + "a,x,", "3 fields instead of 4", "line 32"),
    "nan rating": (HEAD + "a,x,1,5\na,y,2,nan\n", "nan is not a finite number", "line 3"),
    "infinite rating": (HEAD + "a,x,1,inf\n", "inf is not a finite number", "line 2"),
    "word for a rating": (HEAD + "a,x,1,5\na,x,1,five\n", "'five' is not a number", "line 3"),
    "no rating": (HEAD + "a,x,1,\n", "'' is not a number", "line 2"),
    "nan timestamp": (HEAD + "a,x,nan,5\n", "timestamp nan is no whole number", "line 2"),
    "word for a timestamp": (HEAD + "a,x,1,5\n\n\na,x,yesterday,5\n", "'yesterday' is not a number", "line 5"),
    "half a second": (HEAD + "a,x,1.5,5\n", "1.5 is no whole number", "line 2"),
    "timestamp of 65 bits": (HEAD + "a,x,18446744073709551616,5\n", "no whole number of 64 bits", "line 2"),
    "no user": (HEAD + "a,x,1,5\n,x,1,5\n", "no user id", "line 3"),
    "blank item": (HEAD + "a,  ,1,5\n", "no item id", "line 2"),
    "empty file": ("", "empty", "data.csv"),
    "header only": (HEAD, "no interactions", "data.csv"),
    "column twice": ("user,item,timestamp,rating,item\na,x,1,5,x\n", "'item' is named twice", "line 1"),
    "no column": ("user,itme,timestamp,rating\na,x,1,5\n", "no column 'item'", "line 1"),
    "open quote": (HEAD + 'a,"x,1,5\nb,y,2,5\n', "fields instead of 4", "data.csv"),
}


@pytest.mark.parametrize("case", CSV)
@pytest.mark.parametrize("block", [1 << 20, 24])
def test_separated_files(tmp_path, monkeypatch, case, block):
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    content, what, where = CSV[case]
    (tmp_path / "data.csv").write_text(content)
    error = refused("interactions", tmp_path / "cache", str(tmp_path / "data.csv"), rating="rating")
    assert what in error.what
    assert where in error.where
    if case == "no column":
        assert "did you mean item: itme?" in error.mend


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "data.csv").write_bytes(HEAD.encode() + b"a,x,1,5\nb,caf\xe9,2,5\n")
    error = refused("interactions", tmp_path / "cache", str(tmp_path / "data.csv"))
    assert "not UTF-8" in error.what
    assert "line 3" in error.where


FIRST = '{"user": "a", "item": "x", "timestamp": 1}\n'
JSON = {
    "no json": (FIRST + '{"user": "a", "ite\n', "no JSON", "line 2"),
    "no object": (FIRST + "[1]\n", "no JSON object", "line 2"),
    "other type": (FIRST + '\n{"user": "a", "item": 5, "timestamp": 1}\n', "wrong type", "line 3"),
    "field gone": (FIRST + '{"user": "a", "item": "x"}\n', "no timestamp", "line 2"),
    "null id": (FIRST + '{"user": null, "item": "x", "timestamp": 1}\n', "no user id", "line 2"),
    "no field": ('{"user": "a", "item": "x", "time": 1}\n', "no column 'timestamp'", "data.jsonl"),
    "empty": ("\n", "empty", "data.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON)
def test_json_lines(tmp_path, case):
    content, what, where = JSON[case]
    (tmp_path / "data.jsonl").write_text(content)
    error = refused("interactions", tmp_path / "cache", str(tmp_path / "data.jsonl"))
    assert what in error.what
    assert where in error.where


SEQUENCES = {
    "no item": ("1 2 3\n2\n", "no item", "line 2"),
    "padding id": ("1 2 3\n\n2 0 3\n", "'0' is out of range", "line 3"),
    "negative id": ("1 -2 3\n", "'-2' is out of range", "line 1"),
    "word": ("1 2 b\n", "'b' is out of range", "line 1"),
    "beyond 32 bits": ("1 2 4294967296\n", "'4294967296' is out of range", "line 1"),
    "user twice": ("1 2 3\n2 3\n1 4 5\n", "user 1 has more than one line", "data.txt"),
    "empty": ("", "no interactions", "data.txt"),
}


@pytest.mark.parametrize("case", SEQUENCES)
@pytest.mark.parametrize("block", [1 << 20, 6])
def test_sequences(tmp_path, monkeypatch, case, block):
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    content, what, where = SEQUENCES[case]
    (tmp_path / "data.txt").write_text(content)
    error = refused("sequences", tmp_path / "cache", str(tmp_path / "data.txt"))
    assert what in error.what
    assert where in error.where


@pytest.mark.parametrize("content", ['{"1": [2', "[1]", '{"1": 5}'])
def test_sequences_with_bad_attributes(tmp_path, content):
    (tmp_path / "data.txt").write_text("1 2 3\n")
    (tmp_path / "a.json").write_text(content)
    error = refused("sequences", tmp_path / "cache", str(tmp_path / "data.txt"), str(tmp_path / "a.json"))
    assert "attributes" in error.what


def test_files_that_are_missing(tmp_path):
    (tmp_path / "ratings.csv").write_text(GOOD)
    error = refused("interactions", tmp_path / "cache", str(tmp_path / "rating.csv"))
    assert "did you mean ratings.csv?" in error.mend
    for source, args in {
        "sequences": ("nowhere/data.txt",),
        "movielens": ("1m", "nowhere"),
        "amazon_reviews": ("all", "nowhere"),
    }.items():
        assert "nowhere" in refused(source, tmp_path / "cache", *args).where
    error = refused("movielens", tmp_path / "cache", "1m", str(tmp_path))
    assert "ratings.dat" in error.where
    error = refused("amazon_reviews", tmp_path / "cache", ("Software",), str(tmp_path))
    assert "Software.jsonl" in error.mend
    error = refused("interactions", tmp_path / "cache", str(tmp_path))
    assert error.where == str(tmp_path)


def test_a_format_that_is_unknown(tmp_path):
    (tmp_path / "data.xls").write_text("x")
    assert "format" in refused("interactions", tmp_path / "cache", str(tmp_path / "data.xls")).what


@pytest.mark.parametrize("keep", [0.3, 0.99])
def test_gzip_that_is_cut_off(tmp_path, keep):
    content = gzip.compress("".join(f"u{n},i{n * n % 977},{n},5\n" for n in range(5000)).encode())
    (tmp_path / "data.csv.gz").write_bytes(gzip.compress(HEAD.encode()) + content[: int(len(content) * keep)])
    error = refused("interactions", tmp_path / "cache", str(tmp_path / "data.csv.gz"))
    assert "cut off" in error.what


def movielens_zip(path: Path, members: dict[str, str]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


def test_zip_that_is_cut_off_or_changed(tmp_path):
    rows = "".join(f"{n},{n * n % 977},5,{n}\n" for n in range(5000))
    members = {"ml/ratings.csv": "userId,movieId,rating,timestamp\n" + rows, "ml/movies.csv": "movieId,title,genres\n"}
    path = tmp_path / "ml.zip"
    movielens_zip(path, members)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "cut off" in refused("movielens", tmp_path / "cache", "latest-small", str(path)).what
    path.write_bytes(content[:5000] + bytes(200) + content[5200:])
    assert "damaged" in refused("movielens", tmp_path / "cache", "latest-small", str(path)).what


@pytest.mark.parametrize("name", ["../ratings.csv", "/etc/ratings.csv", "ml/../../ratings.csv", "..\\ratings.csv"])
def test_zip_with_members_outside_of_itself(tmp_path, name):
    path = movielens_zip(tmp_path / "inner.zip", {name: "userId,movieId,rating,timestamp\n1,1,1,1\n", "movies.csv": ""})
    before = sorted(tmp_path.parent.rglob("*"))
    assert "outside of itself" in refused("movielens", tmp_path / "cache", "latest-small", path).what
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_zip_of_another_variant(tmp_path):
    path = movielens_zip(tmp_path / "ml.zip", {"ml-1m/ratings.dat": "", "ml-1m/movies.dat": ""})
    error = refused("movielens", tmp_path / "cache", "32m", path)
    assert "no ratings.csv" in error.what
    assert "ratings.dat" in error.mend


def test_parquet_that_is_cut_off_or_lacks_a_column(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"user": ["a"], "item": ["x"], "timestamp": [1], "rating": [float("nan")]}), path)
    error = refused("interactions", tmp_path / "cache", str(path), rating="rating")
    assert "not a finite number" in error.what
    assert "row 1" in error.where
    error = refused("interactions", tmp_path / "cache", str(path), rating="ratings")
    assert "did you mean rating: rating?" in error.mend
    path.write_bytes(path.read_bytes()[:-10])
    assert "cut off" in refused("interactions", tmp_path / "cache", str(path)).what


def test_amazon_files_that_do_not_fit(tmp_path):
    old = {"reviewerID": "a", "asin": "x", "overall": 5.0, "unixReviewTime": 1}
    new = {"user_id": "a", "parent_asin": "x", "rating": 5.0, "timestamp": 1}
    (tmp_path / "A.jsonl").write_text(json.dumps(new) + "\n")
    (tmp_path / "B.jsonl").write_text(json.dumps(old) + "\n")
    assert "several editions" in refused("amazon_reviews", tmp_path / "cache", "all", str(tmp_path)).what
    (tmp_path / "B.jsonl").write_text('{"a": 1}\n')
    assert "no Amazon reviews" in refused("amazon_reviews", tmp_path / "cache", ("B",), str(tmp_path)).what
    (tmp_path / "B.jsonl").write_text(json.dumps(new) + "\n" + json.dumps({**new, "rating": None}) + "\n")
    error = refused("amazon_reviews", tmp_path / "cache", ("B",), str(tmp_path))
    assert "line 2" in error.where


def test_parameters_that_cannot_be_meant():
    for source, keys in {
        "interactions": {"path": "x.csv", "title": "name"},
        "amazon_reviews": {"categories": ("Software", "Software")},
    }.items():
        with pytest.raises(DataError) as caught:
            SOURCES[source].params(**keys)
        assert caught.value.mend
    with pytest.raises(DataError, match="separator"):
        SOURCES["interactions"].params(path="x.csv", attribute_separator="")
    with pytest.raises(DataError, match="none"):
        SOURCES["amazon_reviews"].params(categories=())


def test_columns_of_a_type_that_means_nothing(tmp_path):
    path = tmp_path / "data.parquet"
    lists = pa.array([[{"a": 1}]])
    pq.write_table(pa.table({"user": lists, "item": ["x"], "timestamp": [1]}), path)
    assert "user id" in refused("interactions", tmp_path / "cache", str(path)).what
    pq.write_table(pa.table({"user": [float("nan")], "item": ["x"], "timestamp": [1]}), path)
    assert "user id nan" in refused("interactions", tmp_path / "cache", str(path)).what
    pq.write_table(pa.table({"user": ["a"], "item": ["x"], "timestamp": [None]}), path)
    assert "timestamp None" in refused("interactions", tmp_path / "cache", str(path)).what
