"""A fitted surface is shown where the fit is worth something, and otherwise not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import conclude, load
from analysis.gallery import pictures


@pytest.fixture(scope="module")
def results(run_dir):
    return conclude(load(run_dir))


@pytest.mark.parametrize(("r_squared", "drawn"), [(0.4, True), (0.0, False), (-0.2, False), (np.nan, False)])
def test_no_map_and_no_star_of_a_fit_that_explains_nothing(results, r_squared, drawn):
    trials = pd.DataFrame({"id": list("abcd"), "arm": "tail", "same_as": None, "value": [0.1, 0.2, 0.3, 0.4],
                           "temperature": [1.0, 2.0, 1.0, 2.0], "alpha_dist": [0.0, 1.0, 0.0, 1.0]})  # fmt: skip
    curves = pd.DataFrame({"arm": "all arms", "parameter": "temperature", "x": [1.0, 2.0], "mean": [0.2, 0.3],
                           "low": np.nan, "high": np.nan})  # fmt: skip
    grid = pd.DataFrame({"x": [1, 2, 1, 2], "y": [0, 0, 1, 1], "mean": [0.1, 0.2, 0.3, 0.4], "strength": 0.2,
                         "r_squared": r_squared, "n_points": 2})  # fmt: skip
    tables = {"search_trials": trials, "sensitivity_curves": curves, "sensitivity_surface": grid}
    shown = next(one for one in pictures(results, tables) if one.name == "surface")
    stars = [line for line in shown.figure.axes[0].lines if line.get_marker() == "*"]
    assert len(stars) == drawn
    assert "2 distinct points" in shown.text
    assert ("No surface is drawn and no best point named" in shown.text) != drawn
