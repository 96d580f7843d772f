"""Corrections for many tests: Holm for planned families, Benjamini-Hochberg for exploration."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from analysis.stats.arrays import Floats


def holm(p_values: ArrayLike) -> Floats:
    """Return Holm-adjusted p-values, which bound the chance of any false rejection in the family (Holm 1979).

    Args:
        p_values: `[test]`; NaN marks a test that could not be run: it stays NaN and does not count.

    Raises:
        ValueError: A p-value outside 0 to 1.
    """
    return _adjusted(p_values, _step_down)


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Return Benjamini-Hochberg adjusted p-values, which bound the share of false rejections (1995).

    Args and errors as `holm`.
    """
    return _adjusted(p_values, stats.false_discovery_control)


def _adjusted(p_values: ArrayLike, adjust: Callable[[Floats], Floats]) -> Floats:
    array = np.asarray(p_values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"p-values have {array.ndim} axes, but one is needed")
    tested = ~np.isnan(array)
    if ((array[tested] < 0) | (array[tested] > 1)).any():
        raise ValueError("p-values lie between 0 and 1")
    adjusted = np.full(array.shape, np.nan)
    if tested.any():
        adjusted[tested] = adjust(array[tested])
    return adjusted


def _step_down(p_values: Floats) -> Floats:
    """Return Holm's adjustment: the i-th smallest of n times n - i + 1, made monotone, at most 1.

    Own code because statsmodels' collects garbage on every call, which takes a tenth of a second.
    """
    order = np.argsort(p_values)
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted
