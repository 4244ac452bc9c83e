"""Rows of the tables of the curve over examples: means over prompts with bounds, or reasons why there are none.

In: what the part `curve` has looked at. Out: the tables curve, answers, distances and checks. Fits have their own
module (bayes_fits).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headscope.measures.estimates import estimated_each
from headscope.studies.bayes_parts import tables
from headscope.studies.bayes_parts.distances import kl_over_numbers, kl_right_or_not
from headscope.studies.bayes_parts.seen import Seen
from headscope.tables import Table

MODEL, SHUFFLED = "model", "model, labels shuffled"
AFTER = 8
_SHARE = (0.0, 1.0)
_IMPOSSIBLE = "no function of the family allows what some prompts show"
_NO_LINE = "a line is undefined with so few pairs"
_NO_NUMBERS = "not every number is scored in text"


def curve_table(seen: Seen) -> Table:
    """Mean probability of the function's value after every number of pairs, learner by learner."""
    found = []
    for learner, p, reason in _curves(seen):
        for shot, cells in enumerate(_cells(p, "p", reason, _SHARE)):
            found.append({"learner": learner, "shots": shot, **cells})
    return tables.CURVE.table(found)


def _curves(seen: Seen) -> Iterator[tuple[str, Tensor, str]]:
    yield MODEL, seen.model.p, ""
    for name, exact in seen.exact.items():
        yield name, of_right(exact, seen.right), _IMPOSSIBLE
    for name, line in seen.regressed.items():
        yield name, _matches(line.round(), seen.right), _NO_LINE
    yield SHUFFLED, seen.shuffled.p, ""
    yield f"{next(iter(seen.exact))}, labels shuffled", of_right(seen.exact_shuffled, seen.right), _IMPOSSIBLE


def answers_table(seen: Seen) -> Table:
    """How often each learner's most likely number is right, how far off it is, how often the model's is the same."""
    own = None if seen.model.numbers is None else seen.model.numbers.argmax(-1).double()
    listed: dict[str, Tensor | None] = {MODEL: own}
    listed |= {name: exact.argmax(-1).double() for name, exact in seen.exact.items()}
    listed |= {name: line.round() for name, line in seen.regressed.items()}
    found = []
    nothing = torch.full(seen.right.shape, torch.nan, dtype=torch.float64)
    for learner, given in listed.items():
        answer = nothing if given is None else given
        reason = _NO_NUMBERS if given is None else _NO_LINE
        same = (nothing if own is None else _matches(answer, own)).mean(0)
        error = (answer - seen.right).abs().mean(0)
        for shot, cells in enumerate(_cells(_matches(answer, seen.right), "right", reason, _SHARE)):
            more = {"error": float(error[shot]), "agreement": float(same[shot])}
            found.append({"learner": learner, "shots": shot, **cells, **more})
    return tables.ANSWERS.table(found)


def distances_table(seen: Seen) -> Table:
    """KL divergence of the model from each exact posterior, per number of pairs."""
    found = []
    for name, exact in seen.exact.items():
        own, p = seen.model, of_right(exact, seen.right)
        numbers = p * torch.nan if own.numbers is None else kl_over_numbers(exact, own.numbers)
        why = _NO_NUMBERS if own.numbers is None else _IMPOSSIBLE
        for over, kl, reason in (
            ("numbers", numbers, why),
            ("right or not", kl_right_or_not(p, own.right), _IMPOSSIBLE),
        ):
            for shot, cells in enumerate(_cells(kl, "kl", reason)):
                found.append({"reference": name, "over": over, "shots": shot, **cells})
    return tables.DISTANCES.table(found)


def checks_table(seen: Seen) -> Table:
    """The comparisons that claims are judged by, each paired prompt by prompt."""
    model, shuffled = seen.model.p, seen.shuffled.p
    exact = of_right(seen.reference, seen.right)
    moved = of_right(seen.exact_permuted, seen.right)[:, -1]
    late = slice(AFTER, None)
    few = "" if model.shape[1] > AFTER else f"fewer than {AFTER} pairs are shown"
    nothing = torch.full((len(model),), torch.nan, dtype=torch.float64)
    rise, without = model[:, -1] - model[:, 0], shuffled[:, -1] - shuffled[:, 0]
    compared = {
        "rise": (rise, ""),
        "rise, labels shuffled": (without, ""),
        "rise beyond shuffled labels": (rise - without, ""),
        "rise, exact posterior": (exact[:, -1] - exact[:, 0], _IMPOSSIBLE),
        "distance from exact after 8": (
            nothing if few else (model - exact)[:, late].abs().mean(1),
            few or _IMPOSSIBLE,
        ),
        "model minus exact after 8": (
            nothing if few else (model - exact)[:, late].mean(1),
            few or _IMPOSSIBLE,
        ),
        "change with order": ((seen.permuted.exp() - model[:, -1]).abs(), ""),
        "change with order, exact posterior": ((moved - exact[:, -1]).abs(), _IMPOSSIBLE),
    }
    found = []
    for name, (values, why) in compared.items():
        found += [{"quantity": name, **cells} for cells in _cells(values[:, None], "value", why)]
    return tables.CHECKS.table(found)


def of_right(predictive: Tensor, right: Tensor) -> Tensor:
    """Probability of the function's values, [example, shot]."""
    return predictive.gather(-1, right[..., None]).squeeze(-1)


def _matches(answer: Tensor, other: Tensor) -> Tensor:
    """1 where the answers are the same, 0 where not, NaN where there is none."""
    return torch.where(answer.isnan(), answer, (answer == other).double())


def _cells(
    values: Tensor, name: str, reason: str, within: tuple[float, float] | None = None
) -> list[dict[str, Any]]:
    """Estimates of [prompt, column], with the reason where one is undefined."""
    return [
        {**cells, "reason": reason if np.isnan(cells[name]) else ""}
        for cells in estimated_each(values, name, within=within)
    ]
