"""The page about real models: what decides whether a claim holds, on printed results that are written here."""

import pytest
from tools.real_models_page import CLAIMS, _layers

SINKS, FULL, BEFORE, RAISED = (decide for _, decide in CLAIMS)


def printed(*rows, first_token=()):
    heads = [
        dict(zip(("head", "detector", "kind"), row, strict=True), layer=int(row[0].split(".")[0]), named=True)
        for row in rows
    ]
    told = {"first_token": {"prose": dict.fromkeys(first_token, 0.6)}}
    return {"heads": {"told": {"heads": heads}}, "measure": {"told": told}}


INDUCTION = ("5.1", "induction", "induction")
WINDOWED = ("13.3", "induction", "anti-induction")
PREVIOUS = ("2.3", "previous_token", "previous_token")


@pytest.mark.parametrize(
    ("decide", "own", "said"),
    [
        (FULL, printed(INDUCTION), "holds: 1 of 1 heads with the pattern; 1 of 1 that raise"),
        (FULL, printed(INDUCTION, WINDOWED), "does not hold: 1 of 2 heads with the pattern, not 13.3 anti-induction"),
        (BEFORE, printed(INDUCTION, PREVIOUS), "holds: layer 2 before 5"),
        (BEFORE, printed(INDUCTION, ("5.0", *PREVIOUS[1:])), "does not hold: layer 5 before 5"),
        (RAISED, printed(INDUCTION), "holds: 1 of 1"),
        (RAISED, printed(INDUCTION, WINDOWED), "does not hold: 1 of 2"),
        (SINKS, printed(INDUCTION, PREVIOUS, first_token=["2.3", "5.1"]), "holds: 0 heads below layer 2; 100%"),
        (SINKS, printed(INDUCTION, PREVIOUS, first_token=["5.1"]), "does not hold: 0 heads below layer 2; 50%"),
        (SINKS, printed(INDUCTION, PREVIOUS, first_token=["1.0", "2.3", "5.1"]), "does not hold: 1 heads below"),
    ],
)
def test_a_claim_holds_where_its_numbers_say_so(decide, own, said):
    assert decide("gemma", own).startswith(said)


def test_layers_are_spans():
    assert _layers([3, 2, 4, 9, 9]) == "2-4, 9"
