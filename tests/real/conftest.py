"""One opening of each real model and one plain copy, shared by all tests; skipped by name where it is absent."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
from tools.real import folder_of

import headscope as hs
from tests.real.plain import Plain


@dataclass(frozen=True)
class Pair:
    """A model opened by headscope, and the reference: other objects, with other configurations."""

    model: hs.Model
    plain: Plain


@pytest.fixture(scope="session")
def opened() -> Callable[[str], Pair]:
    @cache
    def pair(name: str) -> Pair:
        folder = folder_of(name)
        if not folder.is_dir():
            pytest.skip(f"{name} not fetched: make real")
        return Pair(hs.load(folder), Plain(folder))

    return pair
