"""Garbage collection that waits."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Collect no garbage in the block.

    Around imports it saves a fifth of their time: torch and transformers are some hundred thousand objects that all
    stay, and Python would go through them again and again as more of them come.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
