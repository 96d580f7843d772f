"""Text files, plain, gzipped or inside a zip, read as Arrow tables a block of whole lines at a time.

A block is some megabytes, so memory does not grow with the file; every error names the file and the line.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import gzip
import json
import zipfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from raydistill.errors import DataError

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class TextFile:
    """A file, or a member of a zip archive, that is read but never unpacked to disk.

    Attributes:
        path: File or archive; gzip is recognized by its first bytes.
        member: Name inside the archive, or None.
    """

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        return f"{self.path}" if self.member is None else f"{self.path}:{self.member}"

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Yield the content as a binary stream.

        Raises:
            DataError: The file is missing, may not be read, or is cut off.
        """
        try:
            with contextlib.ExitStack() as stack:
                if self.member is not None:
                    archive = stack.enter_context(zipfile.ZipFile(self.path))
                    yield stack.enter_context(archive.open(self.member))
                    return
                plain = stack.enter_context(open(self.path, "rb"))
                zipped = plain.read(2) == b"\x1f\x8b"
                plain.seek(0)
                yield stack.enter_context(gzip.open(plain)) if zipped else plain
        except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise DataError(
                f"the compressed file is damaged or cut off: {error}", where=self.name, mend="download or copy it again"
            ) from error
        except OSError as error:
            raise unreadable(self.path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the error for a data file that cannot be opened, with the names that come close."""
    mend = "correct the path, or the rights of the file"
    if isinstance(error, FileNotFoundError) and path.parent.is_dir():
        close = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=3)
        mend = f"did you mean {' or '.join(close)}?" if close else f"no such file in {path.parent}; correct the path"
    return DataError(f"cannot read {path.name}: {error.strerror or error}", where=str(path), mend=mend)


@dataclass(frozen=True)
class Block:
    """Some whole lines of a file, as UTF-8.

    Attributes:
        data: The lines; an empty line is no row.
        first_line: 1-based number of the first of them.
        name: The file, for people.
    """

    data: bytes
    first_line: int
    name: str

    def where(self, row: int) -> str:
        """Return the place of a row of this block; only errors ask, so it may be slow."""
        filled = [n for n, line in enumerate(self.data.split(b"\n")) if line.strip()]
        return self.line(filled[row]) if row < len(filled) else self.name

    def line(self, index: int) -> str:
        """Return the place of the line with a 0-based index in this block."""
        return f"{self.name}, line {self.first_line + index}"


def blocks(file: TextFile, *, encoding: str = "utf-8") -> Iterator[Block]:
    """Yield the file in blocks of whole lines.

    Raises:
        DataError: The file is missing, cut off or not in ``encoding``.
    """
    line = 1
    rest = b""
    with file.open() as stream:
        while data := stream.read(BLOCK_BYTES):
            if line == 1 and not rest:
                data = data.removeprefix(b"\xef\xbb\xbf")
            data = rest + data
            end = data.rfind(b"\n") + 1
            data, rest = data[:end], data[end:]
            if data:
                yield _decoded(Block(data, line, file.name), encoding)
                line += data.count(b"\n")
    if rest:
        yield _decoded(Block(rest, line, file.name), encoding)


def csv_tables(
    file: TextFile, columns: list[str] | None = None, *, delimiter: str = ",", quote: str | None = '"', **options: Any
) -> Iterator[tuple[pa.Table, Block]]:
    """Yield the rows of a separated file as tables of strings, with the block that each came from.

    Line breaks inside quotes are not supported. A separator of several characters is allowed.

    Args:
        file: What to read.
        columns: Names of all columns in order, or None where the first line names them.
        delimiter: Separator.
        quote: Quotation mark, or None where quotes mean nothing.
        options: ``encoding``.

    Raises:
        DataError: A row has another number of fields, a column is named twice, or as :func:`blocks` does.
    """
    separator = delimiter if len(delimiter) == 1 else "\x1f"
    for block in blocks(file, **options):
        if len(delimiter) > 1:
            block = Block(block.data.replace(delimiter.encode(), separator.encode()), block.first_line, block.name)
        if columns is None:
            head, _, data = block.data.partition(b"\n")
            columns = _header(head.decode().rstrip("\r"), separator, file)
            block = Block(data, block.first_line + 1, block.name)
        if block.data.strip(b"\r\n"):
            yield _csv_table(block, columns, separator, quote), block
    if columns is None:
        raise DataError("the file is empty", where=file.name, mend="give a file with a header and at least one row")


def json_tables(file: TextFile, schema: pa.Schema) -> Iterator[tuple[pa.Table, Block]]:
    """Yield the rows of a JSON Lines file as tables of ``schema``, with the block that each came from.

    Other fields are left out; a field that a row lacks is null.

    Raises:
        DataError: A line is no JSON object or has a field of another type, or as :func:`blocks` does.
    """
    for block in blocks(file):
        if not block.data.strip():
            continue
        try:
            table = _read_json(block.data, schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise _bad_json(block, schema, error) from error
        yield table, block


def json_fields(file: TextFile, wanted: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a JSON Lines file, each with its first value that is not null.

    Args:
        file: The file.
        wanted: Fields to look for beyond the first object, since one may leave out what it has not, or give a null;
            as far as the first block goes.

    Raises:
        DataError: The file is empty, or a line that was looked at is no JSON object.
    """
    for block in blocks(file):
        fields: dict[str, Any] = {}
        for number, line in enumerate(block.data.split(b"\n")):
            if line.strip():
                found = _json_object(line, block.line(number))
                fields |= {key: value for key, value in found.items() if fields.get(key) is None}
                if all(fields.get(key) is not None for key in wanted):
                    break
        if fields:
            return fields
    raise DataError("the file is empty", where=file.name, mend="give a file with at least one row")


def require_columns(needed: dict[str, str], present: list[str], where: str) -> None:
    """Check that the columns that a configuration names are there.

    Args:
        needed: Configuration key to column name.
        present: Columns of the file.
        where: The file.

    Raises:
        DataError: One is not; with the names that come close.
    """
    for key, column in needed.items():
        if column not in present:
            close = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
            hint = f"did you mean {key}: {close[0]}? " if close else ""
            raise DataError(
                f"there is no column {column!r}", where=where, mend=f"{hint}The columns are {', '.join(present)}"
            )


def zip_members(path: Path) -> dict[str, TextFile]:
    """Return the members of a zip archive by the last part of their names; nothing is unpacked.

    Raises:
        DataError: The archive is cut off, or a member would lie outside of it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except zipfile.BadZipFile as error:
        raise DataError(
            f"the archive is damaged or cut off: {error}", where=str(path), mend="download it again"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise DataError(
                f"the archive has a member outside of itself: {name!r}",
                where=str(path),
                mend="do not use this archive; download it from its publisher",
            )
    return {PurePosixPath(name).name: TextFile(path, name) for name in names}


def _decoded(block: Block, encoding: str) -> Block:
    try:
        text = block.data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"the text is not {encoding.upper()}: {error.reason}",
            where=block.line(block.data.count(b"\n", 0, error.start)),
            mend=f"convert the file to {encoding.upper()}",
        ) from error
    return block if encoding == "utf-8" else Block(text.encode(), block.first_line, block.name)


def _header(line: str, separator: str, file: TextFile) -> list[str]:
    columns = next(csv.reader([line], delimiter=separator), [])
    if not columns:
        raise DataError("the first line names no columns", where=f"{file.name}, line 1", mend="add a header line")
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(
            f"the column {twice[0]!r} is named twice", where=f"{file.name}, line 1", mend="rename one of them"
        )
    return columns


def _csv_table(block: Block, columns: list[str], separator: str, quote: str | None) -> pa.Table:
    bad: list[pyarrow.csv.InvalidRow] = []

    def note(row: pyarrow.csv.InvalidRow) -> str:
        bad.append(row)
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(block.data),
            # One Arrow block: its own cutting would lose the row numbers.
            pyarrow.csv.ReadOptions(column_names=columns, use_threads=False, block_size=len(block.data) + 1),
            pyarrow.csv.ParseOptions(delimiter=separator, quote_char=quote or False, invalid_row_handler=note),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"the rows cannot be read: {error}", where=block.line(0), mend="correct the file") from error
    if bad:
        lines = block.data.decode().splitlines()
        index = lines.index(bad[0].text) if bad[0].text in lines else 0
        raise DataError(
            f"a row has {bad[0].actual_columns} fields instead of {bad[0].expected_columns}: {bad[0].text[:80]!r}",
            where=block.line(index),
            mend="correct or drop the row; the file may be cut off, or a field may hold a line break",
        )
    return table


def _read_json(data: bytes, schema: pa.Schema) -> pa.Table:
    return pyarrow.json.read_json(
        pa.BufferReader(data),
        # Arrow refuses a row that does not fit into one of its own blocks.
        pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )


def _bad_json(block: Block, schema: pa.Schema, error: Exception) -> DataError:
    """Return the error for the first line that cannot be read, found one line at a time."""
    for number, line in enumerate(block.data.split(b"\n")):
        if not line.strip():
            continue
        place = block.line(number)
        content = _json_object(line, place)
        try:
            _read_json(line, schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            shown = {name: content.get(name) for name in schema.names}
            expected = ", ".join(f"{field.name} {field.type}" for field in schema)
            return DataError(f"a field has the wrong type: {shown}", where=place, mend=f"expected are {expected}")
    return DataError(f"the JSON cannot be read: {error}", where=block.line(0), mend="correct the file")


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"the line is no JSON: {error}", where=where, mend="correct or drop the line; the file may be cut off"
        ) from error
    if not isinstance(content, dict):
        raise DataError("the line is no JSON object", where=where, mend='give one object a line: {"user": ..., ...}')
    return content
