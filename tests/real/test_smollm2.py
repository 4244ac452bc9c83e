"""SmolLM2-135M-Instruct (Llama type, 30 layers of 9 heads, 3 key/value heads) beside plain transformers."""

import pytest

import headscope as hs
from tests.real.cases import RealModel


@pytest.mark.real
class TestSmolLM2(RealModel):
    name = "smollm2"
    sender, receiver = hs.Head(16, 0), hs.Head(18, 6)
    swept = (0, 17, 29)
    withheld = frozenset()
    known = {
        "induction": {"18.6": 0.92, "17.3": 0.81, "17.4": 0.75, "18.7": 0.63, "17.5": 0.59},
        "previous_token": {"16.0": 0.75, "11.1": 0.60},
        "duplicate_token": {"14.3": 0.79},
    }
