"""Downloads that are either whole, and of the published checksum, or absent."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from raydistill.data.storage import not_written
from raydistill.errors import DataError

TIMEOUT_SECONDS = 60


def download(url: str, target: Path, *, md5: str | None, by_hand: str) -> Path:
    """Return ``target``, downloaded over https unless it is there already with the right checksum.

    MD5 is what publishers of data sets give; it finds damage, and https is what stands against forgery.

    Args:
        url: Where the file lies; ``url + ".md5"`` must hold its checksum if ``md5`` is None.
        target: Where to put it.
        md5: Checksum, 32 hex digits.
        by_hand: What to do where the network cannot be reached, for the error.

    Raises:
        DataError: The network cannot be reached, the checksum is wrong, or the folder cannot be written.
    """
    note = target.with_name(f"{target.name}.md5")
    if _is_there(target, md5, note):
        return target
    if md5 is None:
        published = re.search(rb"\b[0-9a-f]{32}\b", b"".join(_blocks(f"{url}.md5", by_hand)).lower())
        if published is None:
            raise DataError("the publisher's checksum cannot be read", where=f"{url}.md5", mend=by_hand)
        md5 = published.group().decode()
    partial = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            for block in _blocks(url, by_hand):
                file.write(block)
        if (found := _md5(Path(partial))) != md5:
            raise DataError(
                f"the download has checksum {found}, published is {md5}", where=url, mend=f"try again, or {by_hand}"
            )
        note.write_text(md5)
        os.chmod(partial, 0o644)  # a temporary file is its owner's alone; others share the storage
        os.replace(partial, target)
    except OSError as error:
        raise not_written(target, error) from error
    finally:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
    return target


def _is_there(target: Path, md5: str | None, note: Path) -> bool:
    """Return whether the file is there with its checksum, or with the one that was published when it was downloaded."""
    try:
        if not target.is_file() or (md5 is None and not note.is_file()):
            return False
        return _md5(target) == (md5 or note.read_text().strip())
    except OSError as error:
        raise DataError(
            f"an earlier download cannot be read: {error.strerror}",
            where=str(target),
            mend="give it read permission, or delete it",
        ) from error


def _blocks(url: str, by_hand: str) -> Iterator[bytes]:
    """Yield the content of an address; an error of the network becomes a DataError, never an OSError of the disk."""
    if not url.startswith("https://"):
        raise DataError("only https is used for downloads", where=url, mend=by_hand)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            if not response.url.startswith("https://"):
                raise DataError("the download was redirected away from https", where=response.url, mend=by_hand)
            while block := response.read(1 << 20):
                yield block
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"cannot download: {error}", where=url, mend=by_hand) from error


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
