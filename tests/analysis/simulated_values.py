"""Values of arms, seeds and users with planted variances, for the tests of comparisons."""

from __future__ import annotations

import numpy as np


def simulated(rng, n_arms=5, n_seeds=4, n_users=40, shifts=0.0):
    """Return ``[arms, seeds, users]``: users, their liking of an arm, seeds and noise vary, and arms are shifted."""
    users = 0.4 + 0.1 * rng.standard_normal((1, 1, n_users))
    arm_users = 0.05 * rng.standard_normal((n_arms, 1, n_users))
    seeds = 0.02 * rng.standard_normal((n_arms, n_seeds, 1))
    noise = 0.1 * rng.standard_normal((n_arms, n_seeds, n_users))
    return users + arm_users + seeds + noise + np.reshape(shifts, (-1, 1, 1))
