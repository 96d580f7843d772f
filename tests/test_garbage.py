"""Garbage waits for the end of a block, and is collected as before afterwards."""

from __future__ import annotations

import gc

import pytest

from raydistill.garbage import without_collection


def test_nothing_is_collected_in_the_block_and_all_is_as_before_after_it():
    def fail() -> None:
        with without_collection():
            seen.append(gc.isenabled())
            raise ModuleNotFoundError

    seen = [gc.isenabled()]
    with pytest.raises(ModuleNotFoundError):
        fail()
    assert [*seen, gc.isenabled()] == [True, False, True]


def test_who_had_it_off_has_it_off():
    gc.disable()
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
