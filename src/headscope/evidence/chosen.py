"""Samples of which other units chose a cell: selection and estimation kept apart as one value.

In: samples of the estimating units over layers (or another axis), and the coordinates that the selecting units chose.
Out: the samples there, the test "it exceeds a margin" (evidence.any_of with a chosen cell), and tables in which the
chosen cells are marked. Choosing is `Samples.best` of the selecting half, or a rule of the study's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from headscope.evidence.comparisons import Test, any_of
from headscope.evidence.tables import table
from headscope.measures.samples import Samples
from headscope.tables import Column, Table

_CHOSEN = Column("chosen", pl.Boolean, "whether the units that select chose this cell")


@dataclass(frozen=True, eq=False)
class Chosen:
    """`samples` of the estimating units, and the coordinates `where` of the cell that the selecting units chose."""

    samples: Samples
    where: Mapping[str, Any]

    @property
    def there(self) -> Samples:
        """At the chosen cell."""
        return self.samples.at(**self.where)

    def exceeds(self, what: str, margin: float) -> Test:
        """Yes by the chosen cell's own bound, no where every cell stays under the margin."""
        return any_of(what, self.samples, above=margin, chosen=self.where)


def chosen_table(name: str, axes: Sequence[Column], compared: Mapping[Any, Chosen]) -> Table:
    """Samples by their labels on further axes (a label, or one for each axis), with a mark at each chosen cell."""
    listed: list[Samples] = []
    marks: dict[Any, bool] = {}
    for labels, each in compared.items():
        samples, where = each.samples, each.where
        named = zip(axes, labels if isinstance(labels, tuple) else (labels,), strict=True)
        for axis, label in reversed(list(named)):
            samples, where = samples.labelled(axis, label), {**where, axis.name: label}
        marks |= dict.fromkeys(samples.cells, False) | dict.fromkeys(samples.only(**where).cells, True)
        listed.append(samples)
    return table(listed, name, more={_CHOSEN: marks})
