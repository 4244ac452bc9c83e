"""Directions in the residual stream: whether they are parallel, how many they are, and whether spaces share any.

In: vectors, or matrices whose rows span a space. Out: cosines, shares, and their nulls. Two means that share
noise are not independent: the steps m1 - m0 and m2 - m1 between three noisy means have cosine -1/2 although
nothing moves, and steps between prompts that contain each other -.48 under pure noise. So steps that are to be
compared come from different prompts, and a cosine is read beside two others: that of the *same* step measured
on two halves of its prompts (what noise leaves of a perfect agreement), and that of steps whose prompts had
their signs flipped (noise alone). Not done here: running a model.
"""

import numpy as np

from headscope.errors import BadArgument
from headscope.measures.intervals import Array


def cosines(first: Array, second: Array) -> Array:
    """Cosine of every row of `first` [n, model] with every row of `second` [m, model], [n, m].

    NaN where a vector is zero.

    >>> cosines(np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])).tolist()
    [[1.0, 0.0, -1.0]]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (first, second))
    products: Array = left @ np.swapaxes(right, -1, -2)
    return products


def agreement(first: Array, second: Array) -> tuple[float, float]:
    """Mean cosine of different steps, and of the same step, measured on two halves of the prompts.

    `first` and `second` [step, model] are the steps on one half and on the other. Parallel steps have equal
    means, whatever the noise; unrelated ones have 0 for the first.

    >>> agreement(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 1.0]]))
    (0.0, 1.0)

    Raises:
        BadArgument: for fewer than two steps.
    """
    if first.shape != second.shape or len(first) < 2:
        raise BadArgument(
            f"cannot compare steps of shapes {first.shape} and {second.shape}: give two halves of the same steps, "
            "two steps or more."
        )
    pairwise = cosines(first, second)
    same = np.eye(len(first), dtype=bool)
    return float(pairwise[~same].mean()), float(pairwise[same].mean())


def first_share(steps: Array) -> float:
    """Share of the squared length of `steps` [step, model] along their first principal direction through 0.

    1 if all are parallel, 1 / n for n orthogonal ones of equal length; NaN if all are zero.

    >>> first_share(np.array([[1.0, 0.0], [-2.0, 0.0]])), first_share(np.eye(2))
    (1.0, 0.5)
    """
    squares = np.linalg.svd(steps, compute_uv=False) ** 2
    return float(squares[0] / squares.sum()) if squares.sum() > 0 else float("nan")


def flipped_means(values: Array, signs: Array) -> Array:
    """Means over prompts of `values` [step, prompt, model], each prompt with a sign of `signs` [draw, step, prompt].

    [draw, step, model]: what the steps would be if nothing but noise were there, of this very size and shape.
    """
    return np.asarray(np.einsum("dsp,spm->dsm", signs, values, optimize=True) / values.shape[1], np.float64)


def random_signs(draws: int, steps: int, prompts: int, seed: int) -> Array:
    """Signs +1 and -1 [draw, step, prompt]."""
    return np.asarray(2.0 * np.random.default_rng(seed).integers(0, 2, (draws, steps, prompts)) - 1.0, np.float64)


def random_like(vector: Array, count: int, seed: int) -> Array:
    """`count` random directions of the vector's length, [count, model]."""
    drawn = np.random.default_rng(seed).normal(size=(count, len(vector)))
    lengths = np.linalg.norm(drawn, axis=1, keepdims=True)
    return np.asarray(drawn / lengths * np.linalg.norm(vector), np.float64)


def shared_square(first: Array, second: Array) -> float:
    """Mean squared cosine of the principal angles between the row spaces of `first` and `second` [row, model].

    0 for orthogonal spaces, 1 if one contains the other. Two random spaces of n <= m dimensions out of d have
    m / d on average. (Björck & Golub 1973, "Numerical methods for computing angles between linear subspaces".)

    >>> shared_square(np.eye(3)[:2], np.eye(3)[1:])
    0.5
    """
    left, right = _basis(first), _basis(second)
    fewest = min(len(left), len(right))
    return float(((left @ right.T) ** 2).sum() / fewest) if fewest else float("nan")


def _basis(rows: Array) -> Array:
    """Orthonormal rows that span the same space; directions far below the largest are rounding."""
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    kept = sizes > 1e-9 * max(float(sizes[0]), 1e-300)
    return directions[kept]


def share_within(rows: Array, again: Array, space: Array) -> float:
    """Share of the squared length of `rows` [row, model] that lies in the space that the rows of `space` span.

    `again` are the same rows measured on other examples, so that noise of the measurement, which points the same way
    as much of the residual stream does, cancels from the squares. Unlike principal angles this weighs directions by
    how much is written along them. A random space of m dimensions out of d holds m / d on average; with noise the
    share may leave 0 to 1. NaN where nothing is written.

    >>> share_within(np.array([[3.0, 1.0]]), np.array([[3.0, 1.0]]), np.array([[0.0, 2.0]]))
    0.1
    """
    basis = _basis(space)
    total = float((rows * again).sum())
    return float(((rows @ basis.T) * (again @ basis.T)).sum() / total) if total > 0 else float("nan")
