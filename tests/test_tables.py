"""A column name means one thing in every table that headscope makes: one type, and one unit where it has one."""

import importlib
import pkgutil
from collections import defaultdict

import pytest

import headscope
from headscope.tables import Schema

# What a mean and its bounds are in is said by the quantity that they belong to.
OF_THE_QUANTITY = ("value", "low", "high")
# Studies are being moved to these columns one by one; a study that is done leaves this list.
NOT_YET = ("headscope.studies",)


def schemas():
    """Every table that is declared anywhere, by where that is."""
    found = {}
    for module in pkgutil.walk_packages(headscope.__path__, "headscope."):
        if not module.name.startswith(NOT_YET):
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, Schema):
                    found[f"{module.name}.{name}"] = value
    return found


@pytest.mark.parametrize("of", ["dtype", "unit"])
def test_a_column_name_has_one_type_and_one_unit(of):
    kinds = defaultdict(lambda: defaultdict(list))
    for place, schema in schemas().items():
        for column in schema.columns:
            if of == "dtype" or column.name not in OF_THE_QUANTITY:
                kinds[column.name][getattr(column, of)].append(place)
    assert {"layer", "head", "detector", "damage"} <= set(kinds)
    assert {name: dict(places) for name, places in kinds.items() if len(places) > 1} == {}
