"""Speed and memory of the crossed bootstrap against a plain scipy loop, with the interval of both.

    OMP_NUM_THREADS=2 python benchmarks/bootstrap.py
    python benchmarks/bootstrap.py --users 10000 --peer-resamples 20

The peer is `scipy.stats.bootstrap` in a loop over arms, with a statistic that draws seeds and gathers users. It runs
`--peer-resamples` resamples and its time is scaled up, since the whole would take too long. The target is 2,000
resamples of 12 arms x 5 seeds x 100,000 users in under 30 s and under 2 GB.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from scipy import stats

from analysis.stats import crossed_bootstrap


def synthetic(arms: int, seeds: int, users: int, rng: np.random.Generator) -> np.ndarray:
    """Return `[arm, seed, user]` with an NDCG-like metric: mostly zeros, paired by user and seed."""
    easy = rng.random(users) * 0.2
    values = np.empty((arms, seeds, users))
    for arm in values:
        for row in arm:
            hit = rng.random(users) < easy
            row[:] = np.where(hit, 1 / np.log2(1 + rng.integers(1, 11, users)), 0.0)
    return values


def peer(values: np.ndarray, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return `[resample, arm]` from one `scipy.stats.bootstrap` an arm, whose statistic draws the seeds too.

    The same generators for every arm keep the draws paired.
    """
    _, seeds, users = values.shape
    streams = rng.integers(2**31, size=2)
    means = []
    for arm in values:
        by_user = np.ascontiguousarray(arm.T)
        draws = np.random.default_rng(streams[0])

        def mean(chosen: np.ndarray, by_user: np.ndarray = by_user, draws: np.random.Generator = draws) -> float:
            return by_user[chosen].mean(axis=0)[draws.integers(0, seeds, seeds)].mean()

        found = stats.bootstrap(
            (np.arange(users),),
            mean,
            n_resamples=n_resamples,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(streams[1]),
        )
        means.append(found.bootstrap_distribution)
    return np.stack(means, axis=1)


def gather(values: np.ndarray, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return `[resample, arm]` by plain numpy index gathers, the other obvious way."""
    arms, seeds, users = values.shape
    means = np.empty((n_resamples, arms))
    for resample in range(n_resamples):
        rows, columns = rng.integers(0, seeds, seeds), rng.integers(0, users, users)
        means[resample] = values[:, rows][:, :, columns].mean(axis=(1, 2))
    return means


def main() -> None:
    """Print times, ratios and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--peer-resamples", type=int, default=20)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    values = synthetic(options.arms, options.seeds, options.users, rng)
    print(f"{options.arms} arms x {options.seeds} seeds x {options.users:,} users, {options.resamples:,} resamples")

    start = time.perf_counter()
    result = crossed_bootstrap(values, reference=0, n_resamples=options.resamples)
    ours = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    first = result.differences[1]
    print(f"crossed_bootstrap      {ours:8.1f} s   1.0 x   peak {peak:.2f} GiB (process, data included)")
    print(f"  arm 1 - arm 0: {first.estimate:+.5f} [{first.low:+.5f}, {first.high:+.5f}]")
    for name, function in (("scipy.stats.bootstrap", peer), ("numpy gathers", gather)):
        start = time.perf_counter()
        means = function(values, options.peer_resamples, np.random.default_rng(1))
        spent = (time.perf_counter() - start) / options.peer_resamples * options.resamples
        spread = (means[:, 1] - means[:, 0]).std(ddof=1)
        note = f"scaled up from {options.peer_resamples} resamples; spread of the difference {spread:.6f}"
        print(f"{name:22} {spent:8.1f} s {spent / ours:5.1f} x   {note}")
    ours_spread = (result.resampled[:, 1] - result.resampled[:, 0]).std(ddof=1)
    print(f"spread of the difference in our resamples {ours_spread:.6f}")


if __name__ == "__main__":
    main()
