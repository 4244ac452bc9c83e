"""A column name means one thing in every table that headscope makes: one type, and one unit where it has one."""

import importlib
import pkgutil
from collections import defaultdict

import pytest

import headscope
from headscope.tables import Column, Quantity, Schema

# What a mean and its bounds are in is said by the quantity that they belong to.
OF_THE_QUANTITY = ("value", "low", "high", "estimate")
# Words for a pure number.
PURE = ("", "share", "probability", "pairs")


def columns():
    """Every column that is declared anywhere, by where that is: in a table, as an axis, or as a quantity."""
    found = []
    for module in pkgutil.walk_packages(headscope.__path__, "headscope."):
        for name, value in vars(importlib.import_module(module.name)).items():
            place = f"{module.name}.{name}"
            listed = (
                value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            )
            for each in listed:
                if isinstance(each, Schema):
                    found += [(place, column) for column in each.columns]
                elif isinstance(each, Column | Quantity):
                    found.append((place, each if isinstance(each, Column) else each.column))
    return found


@pytest.mark.parametrize("of", ["dtype", "unit"])
def test_a_column_name_has_one_type_and_one_unit(of):
    kinds = defaultdict(lambda: defaultdict(set))
    for place, column in columns():
        if of == "dtype" or column.name not in OF_THE_QUANTITY:
            kind = getattr(column, of)
            kinds[column.name]["" if kind in PURE else kind].add(place)
    assert {"layer", "head", "detector", "damage", "recovered", "shots"} <= set(kinds)
    assert {name: dict(places) for name, places in kinds.items() if len(places) > 1} == {}
    assert "p" not in kinds
