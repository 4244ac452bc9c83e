"""Means with bounds as cells of a table: the columns that every table of measured values shares.

In: one value per prompt. Out: the cells `NAME`, `low`, `high`, `prompts` of a row, and the columns that say what
they are. How the bounds come about is `measures.intervals`' business.
"""

from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from headscope.measures.intervals import Array, interval
from headscope.tables import Column

PROMPTS = Column("prompts", pl.Int64, "prompts behind the mean")


def bounds(what: str, unit: str = "") -> tuple[Column, Column]:
    """The columns `low` and `high`: 95% bounds over prompts of `what`."""
    return (
        Column("low", pl.Float64, f"lower 95% bound of {what} over prompts", unit),
        Column("high", pl.Float64, f"upper 95% bound of {what} over prompts", unit),
    )


def estimated(values: Tensor | Array, name: str) -> dict[str, Any]:
    """Mean, bounds and number of prompts of one value per prompt, as cells of a row.

    >>> estimated(np.ones(10), "score")
    {'score': 1.0, 'low': 1.0, 'high': 1.0, 'prompts': 10}
    """
    estimate = interval(np.asarray(values, np.float64))
    return {
        name: float(estimate.mean),
        "low": float(estimate.low),
        "high": float(estimate.high),
        "prompts": estimate.n,
    }


def estimated_each(
    values: Tensor | Array, name: str, *, within: tuple[float, float] | None = None
) -> list[dict[str, Any]]:
    """The same for every column of [prompt, column], all from the same resampled prompts.

    `within` is the range of a bounded score: bounds are cut off at its ends.

    >>> [row["score"] for row in estimated_each(np.array([[0.0, 1.0]] * 10), "score")]
    [0.0, 1.0]
    """
    estimate = interval(np.asarray(values, np.float64), within=within)
    columns = zip(estimate.mean.tolist(), estimate.low.tolist(), estimate.high.tolist(), strict=True)
    return [{name: mean, "low": low, "high": high, "prompts": estimate.n} for mean, low, high in columns]
