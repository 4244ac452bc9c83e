"""How good the estimates of an approximate sweep are, judged on the cells that were also run.

In: the table of an approximate sweep. Out: correlation and largest error over its verified cells. These are the cells
with the largest estimates: of a cell whose effect the estimate missed altogether they say nothing.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from headscope.sweeps.attribution import FIRST_ORDER
from headscope.tables import Table


@dataclass(frozen=True)
class Agreement:
    """Estimates beside exact values, over `cells` cells; `largest_error` is in the unit of the measure.

    `correlation` is Pearson's; NaN for fewer than three cells, or where nothing varies.
    """

    cells: int
    correlation: float
    largest_error: float

    @property
    def sentence(self) -> str:
        """The agreement for people."""
        if not self.cells:
            return "All values are first-order estimates; none was run."
        correlated = "" if np.isnan(self.correlation) else f"correlation {self.correlation:.2f}, "
        return (
            f"{self.cells} cells were run, the others are first-order estimates; on those {self.cells}: "
            f"{correlated}largest error {self.largest_error:.4f}."
        )


def agreement(table: Table) -> Agreement:
    """How estimates and exact values of the verified cells agree."""
    run = table.frame.filter(pl.col("path") != FIRST_ORDER)
    values = run.select("value", "estimate").to_numpy()
    exact, estimate = values[~np.isnan(values).any(1)].T
    correlation = float("nan")
    if len(exact) > 2 and np.ptp(exact) > 0 and np.ptp(estimate) > 0:
        correlation = float(np.corrcoef(exact, estimate)[0, 1])
    errors = np.abs(exact - estimate)
    return Agreement(len(run), correlation, float(errors.max()) if len(errors) else float("nan"))
