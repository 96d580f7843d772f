"""Checks and shared reshaping for the documented arrays.

The axes are named everywhere in the same way: `values[seed, user]` holds one metric value for each test user of one
arm in one stratum, and `values[teacher, seed, user]` the same for several teachers. Arms are stacked in front. Two
arms are paired: the same index means the same teacher, seed and user.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Direction = Literal["max", "min"]
Alternative = Literal["two-sided", "greater", "less"]
Unit = Literal["teachers", "seeds", "users"]


def finite(values: ArrayLike, name: str, *, ndim: int | tuple[int, ...]) -> Floats:
    """Return `values` as float64, sure to be finite and of the wanted number of axes.

    Raises:
        ValueError: An axis too many or too few, an empty array, NaN or infinity.
    """
    array = np.asarray(values, dtype=np.float64)
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if array.ndim not in allowed:
        raise ValueError(f"{name} has {array.ndim} axes, but {' or '.join(map(str, allowed))} are needed")
    if array.size == 0:
        raise ValueError(f"{name} is empty: shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(array)).sum())} values that are NaN or infinite")
    return array


def replicates(values: ArrayLike, name: str = "values") -> tuple[Floats, Unit]:
    """Return `values[replicate, user]` and what its rows are: the unit that a claim can range over.

    Several teachers are the rows (seeds are averaged inside each, since seeds of one teacher are not independent
    evidence about teachers); one teacher with several seeds gives seeds; a single row supports no claim beyond the
    trained model, so its unit is users.

    Args:
        values: `[seed, user]` or `[teacher, seed, user]`.
        name: What an error calls the array.

    Raises:
        ValueError: Wrong axes, NaN, or fewer than two users.
    """
    array = finite(values, name, ndim=(2, 3))
    if array.shape[-1] < 2:
        raise ValueError(f"{name} has {array.shape[-1]} user; an interval needs at least two")
    if array.ndim == 3 and array.shape[0] > 1:
        return array.mean(axis=1), "teachers"
    rows = array[0] if array.ndim == 3 else array
    return rows, "seeds" if rows.shape[0] > 1 else "users"


def paired_difference(values: ArrayLike, reference: ArrayLike) -> Floats:
    """Return `values - reference` with the axes of `values`.

    A reference with one seed (a teacher or a popularity list that has no seeds of its own) stands against every seed.

    Raises:
        ValueError: The two do not have the same users, or their seeds cannot be paired.
    """
    first = finite(values, "values", ndim=(1, 2, 3))
    second = finite(reference, "reference", ndim=(1, 2, 3))
    if first.ndim != second.ndim or first.shape[-1] != second.shape[-1]:
        raise ValueError(f"values {first.shape} and reference {second.shape} are not paired: users must be the same")
    pairs = zip(first.shape[:-1], second.shape[:-1], strict=True)
    if any(theirs not in (ours, 1) for ours, theirs in pairs):
        raise ValueError(f"values {first.shape} and reference {second.shape} are not paired: seeds must be the same")
    return first - second


def sign_of(direction: Direction) -> int:
    """Return 1 where larger is better and -1 where smaller is better.

    Raises:
        ValueError: Neither "max" nor "min".
    """
    signs = {"max": 1, "min": -1}
    if direction not in signs:
        raise ValueError(f"direction is {direction!r}, but 'max' or 'min' is needed")
    return signs[direction]


def check_level(level: float) -> float:
    """Return `level`, sure to be an error rate strictly between 0 and 0.5.

    Raises:
        ValueError: Outside of that.
    """
    if not 0 < level < 0.5:
        raise ValueError(f"level is {level}, but it is an error rate such as 0.05, between 0 and 0.5")
    return level
