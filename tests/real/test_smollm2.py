"""SmolLM2-135M-Instruct (Llama type, 30 layers of 9 heads, 3 key/value heads) beside plain transformers."""

from typing import ClassVar

import pytest

import headscope as hs
from tests.real.cases import RealModel


@pytest.mark.real
class TestSmolLM2(RealModel):
    name = "smollm2"
    sender, receiver = hs.Head(16, 0), hs.Head(18, 6)
    swept = (0, 17, 29)
    withheld = frozenset()
    known: ClassVar = {
        "induction": {"18.6": 0.92, "17.4": 0.85, "17.3": 0.82, "17.5": 0.82, "18.7": 0.63, "23.2": 0.60},
        "previous_token": {"16.0": 0.78, "11.1": 0.67, "1.2": 0.60},
        "duplicate_token": {"14.3": 0.77, "8.0": 0.71},
    }
