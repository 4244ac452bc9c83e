"""Values that come in groups or pairs: means by group, correlations within groups, leaving groups out.

In: values and the group (function, prompt) of each. Out: one value per group, for `measures.intervals`: what
belongs together counts once. Leaving groups out gives pseudo-values (Tukey's jackknife), whose mean and interval
are those of a statistic that is no mean of anything, such as an angle between two fitted spaces.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from headscope.measures.intervals import Array


def by_cluster(values: Array, clusters: NDArray[np.int64]) -> Array:
    """Mean of `values` [example, ...] in each cluster, in order of cluster, [cluster, ...].

    >>> by_cluster(np.array([1.0, 3.0, 8.0]), np.array([4, 4, 7])).tolist()
    [2.0, 8.0]
    """
    names = np.unique(clusters)
    return np.stack([values[clusters == name].mean(0) for name in names])


def pseudo_values(
    statistic: Callable[[NDArray[np.bool_]], float], clusters: NDArray[np.int64], *, most: int = 12, seed: int = 0
) -> Array:
    """Pseudo-values of `statistic(which examples)`, one for each of at most `most` groups of whole clusters.

    n times the statistic of all minus n - 1 times that without one group. NaN for fewer than two clusters.

    >>> x = np.array([1.0, 2.0, 6.0])
    >>> sorted(pseudo_values(lambda kept: x[kept].mean(), np.arange(3)).round(6).tolist())
    [1.0, 2.0, 6.0]
    """
    names = np.random.default_rng(seed).permutation(np.unique(clusters))
    groups = np.array_split(names, min(most, len(names)))
    n = len(groups)
    if n < 2:
        return np.array([np.nan])
    whole = statistic(np.ones(len(clusters), bool))
    return np.array([n * whole - (n - 1) * statistic(~np.isin(clusters, group)) for group in groups])


def shared_variation(first: Array, second: Array) -> Array:
    """Each prompt's part in the rank correlation of `first` and `second` [prompt, n] *within* each n, [prompt].

    Values are replaced by their ranks over prompts in every column, so that what goes with n alone has no part and
    no outlier more than its place; the mean over prompts is Spearman's correlation, averaged over n. Columns in
    which either does not vary are left out; NaN if none is left.

    >>> values = np.array([[0.0, 10.0], [1.0, 12.0], [2.0, 99.0]])
    >>> round(float(shared_variation(values, -values).mean()), 6)
    -1.0
    """
    ranked = [rankdata(values, axis=0) for values in (first, second)]
    varies = (ranked[0].std(0) > 0) & (ranked[1].std(0) > 0)
    if not varies.any():
        return np.full(len(first), np.nan)
    left, right = ((v - v.mean(0)) / v.std(0) for v in (each[:, varies] for each in ranked))
    product: Array = (left * right).mean(1)
    return product
