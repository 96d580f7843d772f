"""A linear mixed model by REML, for designs in which runs are missing or nested.

statsmodels' MixedLM fits the same model, but does not converge where a variance is 0, which is the usual case here (a
selector that makes no difference); so the criterion is minimized directly. Both agree where it converges.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg, optimize

from analysis.stats.arrays import Floats, finite
from analysis.stats.variance import VarianceSplit

ESTIMATOR = "linear mixed model, restricted maximum likelihood"


def mixed_split(
    random: Mapping[str, ArrayLike], response: ArrayLike, *, fixed: tuple[str, ArrayLike] | None = None
) -> VarianceSplit:
    """Return the share of each random factor, of the fixed one and of the residual in the response's variance.

    Model: `y = X beta + sum_k Z_k u_k + e`, `u_k ~ N(0, s_k^2 I)`, `e ~ N(0, s^2 I)`, by restricted maximum likelihood
    (Patterson and Thompson 1971) with every `s_k` at or above 0; the fixed factor's part is the variance of its fitted
    means. Balanced data give the ANOVA estimates wherever those are not negative.

    Args:
        random: Name to `[observation]` labels of its groups; None is "not in any group of this factor".
        response: `[observation]`.
        fixed: Name and `[observation]` labels of a factor whose levels were chosen, such as the keep-ratio.

    Raises:
        ValueError: Lengths differ, no random factor, NaN in the response, or no degrees of freedom left.
    """
    y = finite(response, "response", ndim=1)
    n = len(y)
    designs = {name: _groups(values, n, name) for name, values in random.items()}
    levels = _groups(fixed[1], n, fixed[0]) if fixed else np.ones((n, 1))
    x = np.hstack([np.ones((n, 1)), levels[:, 1:]])
    if not designs:
        raise ValueError("a mixed model needs a random factor")
    if n <= x.shape[1] + 1:
        raise ValueError(f"{n} observations leave nothing to estimate {x.shape[1]} means and the variances from")
    names = [*([fixed[0]] if fixed else []), *designs, "residual"]
    spread = float(y.std())
    if np.ptp(y) == 0:
        return VarianceSplit(ESTIMATOR, dict.fromkeys(names, 0.0), 0.0, n)
    deviations, residual, beta = _fitted((y - y.mean()) / spread, x, list(designs.values()))
    parts = [float(np.var(x @ beta))] if fixed else []
    parts += [float(d) ** 2 * residual for d in deviations]
    parts.append(residual)
    total = sum(parts)
    return VarianceSplit(ESTIMATOR, dict(zip(names, (p / total for p in parts), strict=True)), total * spread**2, n)


def _fitted(y: Floats, x: Floats, designs: list[Floats]) -> tuple[Floats, float, Floats]:
    """Return standard deviations relative to the residual's, the residual variance, and the fixed effects."""
    z = np.hstack(designs)
    sizes = [design.shape[1] for design in designs]
    zz, zx, zy, xx, xy, yy = z.T @ z, z.T @ x, z.T @ y, x.T @ x, x.T @ y, float(y @ y)
    freedom = len(y) - x.shape[1]

    def solved(theta: Floats) -> tuple[float, float, Floats]:
        # Woodbury: |V| and V^-1 of V = I + Z D Z' through a matrix of one row a group.
        scale = np.repeat(theta, sizes)
        root = np.linalg.cholesky(np.eye(len(scale)) + scale[:, None] * zz * scale)
        a = linalg.solve_triangular(root, scale[:, None] * zx, lower=True)
        b = linalg.solve_triangular(root, scale * zy, lower=True)
        inner = np.linalg.cholesky(xx - a.T @ a)
        beta = linalg.cho_solve((inner, True), xy - a.T @ b)
        # A perfect fit has no residual; the floor keeps the logarithm finite.
        residual = max(yy - float(b @ b) - float((xy - a.T @ b) @ beta), 1e-12 * yy) / freedom
        logs = 2 * np.log(np.diag(root)).sum() + 2 * np.log(np.diag(inner)).sum()
        return freedom * np.log(residual) + float(logs), residual, beta

    # Two starts, since the criterion can be flat where a variance is near 0.
    found = [
        optimize.minimize(lambda t: solved(t)[0], np.full(len(sizes), start), bounds=[(0, 1e4)] * len(sizes))
        for start in (1.0, 0.1)
    ]
    best = min(found, key=lambda one: one.fun).x
    # What the criterion cannot tell from 0 is 0.
    for index in range(len(best)):
        without = np.where(np.arange(len(best)) == index, 0.0, best)
        if solved(without)[0] <= solved(best)[0] + 1e-6:
            best = without
    _, residual, beta = solved(best)
    return best, residual, beta


def _groups(labels: ArrayLike, n: int, name: str) -> Floats:
    """Return `[observation, group]` of zeros and ones; a row of zeros where the label is None."""
    array = np.asarray(labels, dtype=object)
    if array.shape != (n,):
        raise ValueError(f"factor {name} has shape {array.shape}, but the response has {n} observations")
    kinds = sorted({str(label) for label in array if label is not None})
    texts = np.array([None if label is None else str(label) for label in array], dtype=object)
    return (texts[:, None] == np.array(kinds, dtype=object)).astype(np.float64)
