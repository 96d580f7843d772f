"""Importing large libraries."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Import in the block without collecting garbage meanwhile.

    Torch and transformers are some hundred thousand objects that all stay; to go through them again and again, as more
    of them come, takes Python a fifth of the time of the import.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
