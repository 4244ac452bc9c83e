"""From which layer on the read-out knows a, b, x, and the number of shots: one of them swapped at a time.

In: a model and the settings of a study of pairs. Out: a Part with, by layer and variable, how far the answer moves
when the stream at the read-out is taken from a prompt that differs in that one variable (`variables`), and by
which layer each has arrived. Donor and recipient share everything else: inputs, wrong labels, and for a and b the
query; for the number of shots the donor has the first quarter of the pairs. The share is 0 where the read-out does
not know the variable yet, and 1 where it no longer asks elsewhere. No claim: the article asks when, not whether.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from torch import Tensor

from headscope import tasks
from headscope.figures import lines
from headscope.interventions import patch
from headscope.measures import interval, joint_log_probability
from headscope.measures.clusters import ratio_parts
from headscope.measures.estimates import PROMPTS, bounds, estimated
from headscope.measures.intervals import Array
from headscope.measures.log_odds import log_odds
from headscope.models.model import Model
from headscope.results.study import Figure
from headscope.studies.bayes_parts.inside import Progress, stream_sites
from headscope.studies.bayes_parts.problems import first_pairs, prompts_each
from headscope.studies.pairs import PairsConfig
from headscope.studies.parts import Part
from headscope.studies.words import number
from headscope.sweeps import Cell, evaluate
from headscope.sweeps.cell_values import cell_values
from headscope.tables import Column, Schema, Table
from headscope.tasks.functions import Ints
from headscope.tasks.shots import Shots
from headscope.vocabulary import staged

SHOTS = "shots"
VARIABLES = ("a", "b", "x", SHOTS)
# A variable has arrived where, from that layer on, more than half of the answer's way goes with the read-out.
ARRIVED = 0.5
# Donor and recipient must differ by so much in the log-odds of their answers, in nats.
LEAST_GAP_NATS = 0.5

TABLE = Schema(
    "variables",
    (
        Column(
            "layer", pl.Int64, "the stream before this layer is patched; the last row is the final stream"
        ),
        Column("variable", pl.String, "what differs: a, b, x, or the number of shots"),
        Column("moved", pl.Float64, "share of the way from the recipient's answer to the donor's", "share"),
        *bounds("the share", "share"),
        Column("gap", pl.Float64, "the whole way: donor minus recipient, unpatched", "nats"),
        Column("reason", pl.String, "why the share is undefined; empty where it is not"),
        PROMPTS,
    ),
)


@dataclass(frozen=True)
class Swap:
    """Recipients, and donors that differ from them in one variable, example by example."""

    recipient: Shots
    donor: Shots


def part(config: PairsConfig, model: Model, progress: Progress) -> Part:
    """How far does the answer go with the read-out, variable by variable?"""
    shots = config.draw(model, n=prompts_each(config), seed=71)
    rows = []
    for variable in VARIABLES:
        swap = swapped(shots, variable, config.seed)
        if swap is None:
            moved = np.full((model.n_layers + 1, 1), np.nan)
            rows += _rows(variable, moved, np.array([np.nan]), "no other value of it changes the answer")
            continue
        moved, gap = _moved(model, swap, variable, progress)
        rows += _rows(variable, moved, gap, "")
    table = TABLE.table(rows)
    return Part({"variables": table}, (), _figures(table), (_NOTE,), (arrivals(table),))


_NOTE = (
    "Single variables: the stream at the read-out is patched and nothing else. For an answer of several tokens, the "
    "later ones still read the recipient's prompt, so that even the final stream need not bring the whole answer. "
    "Where positions are learned, a donor with fewer shots brings its own position along, too."
)


def swapped(shots: Shots, variable: str, seed: int) -> Swap | None:
    """The problems with one variable changed so that the answer changes; those without such a value are left out."""
    if variable == SHOTS:
        return Swap(shots, first_pairs(shots, max(1, shots.x.shape[1] // 4)))
    generator = np.random.default_rng((seed, VARIABLES.index(variable)))
    kept, parameters, queries = [], [], []
    for row in range(len(shots)):
        own, asked = shots.parameters[row], int(shots.query[row])
        choices = _others(shots, row, variable)
        values = shots.functions.values(choices[:, :2], choices[:, 2])
        choices = choices[values != shots.functions.values(own, np.array(asked))]
        if len(choices):
            *function, query = choices[generator.integers(len(choices))].tolist()
            kept.append(row)
            parameters.append(function)
            queries.append(query)
    if not kept:
        return None
    recipient = shots.rows(np.array(kept))
    changed = np.array(parameters, np.int64)
    true = shots.functions.values(changed[:, None], recipient.x)
    # A wrong label is wrong for either function, and stays what it is.
    y = np.where(recipient.wrong, recipient.y, true)
    donor = replace(recipient, parameters=changed, y=y, query=np.array(queries, np.int64))
    return Swap(recipient, donor)


def _others(shots: Shots, row: int, variable: str) -> Ints:
    """Other values of one variable, as (a, b, query), [choice, 3]."""
    a, b = shots.parameters[row].tolist()
    query = int(shots.query[row])
    if variable == "x":
        low, high = shots.functions.inputs
        free = [x for x in range(low, high + 1) if x != query and x not in shots.x[row]]
        return np.array([(a, b, x) for x in free], np.int64).reshape(-1, 3)
    grid = shots.functions.grid.tolist()
    same = [(c, d) for c, d in grid if (d == b and c != a if variable == "a" else c == a and d != b)]
    return np.array([(*each, query) for each in same], np.int64).reshape(-1, 3)


def _moved(model: Model, swap: Swap, variable: str, progress: Progress) -> tuple[Array, Array]:
    """How far each patch moves the answer, [site, prompt], in nats, and the whole way, [prompt].

    With other answers the way is in the odds of the donor's against the recipient's, with the same one (fewer
    shots) in its log-odds.
    """
    sites, measure = stream_sites(model), joint_log_probability()
    answers = [swap.donor.answer] if variable == SHOTS else [swap.donor.answer, swap.recipient.answer]
    patched, received, donated = [], [], []
    for answer in answers:
        recipient, donor = (
            tasks.linear(model, shots, answers=answer) for shots in (swap.recipient, swap.donor)
        )
        source = model.run(donor, capture=sites)
        cells = [
            Cell((patch(site, source=source, positions={-1: -1}),), layer) for layer, site in enumerate(sites)
        ]
        stage = staged(progress, f"swapping {variable}")
        patched.append(cell_values(model, recipient.answered(), cells, measure, progress=stage))
        received.append(evaluate(model, recipient.answered(), [measure])[0])
        donated.append(evaluate(model, donor.answered(), [measure])[0])
    reached, start, end = (_odds(*each).numpy() for each in (patched, received, donated))
    return reached - start, end - start


def _odds(wanted: Tensor, others: Tensor | None = None) -> Tensor:
    """Log-odds of an answer, against one other or against everything else, from log-probabilities."""
    return log_odds(wanted) if others is None else wanted - others


def _rows(variable: str, moved: Array, gap: Array, reason: str) -> list[dict[str, object]]:
    way = interval(gap)
    if not reason and not float(abs(way.mean)) > LEAST_GAP_NATS:
        reason = f"donor and recipient differ by less than {LEAST_GAP_NATS} nats"
    elif not reason and not (way.low > 0 or way.high < 0):
        reason = "donor and recipient do not clearly differ"
    shares = [np.full_like(each, np.nan) if reason else ratio_parts(each, gap) for each in moved]
    return [
        {
            "layer": layer,
            "variable": variable,
            **estimated(share, "moved"),
            "gap": float(way.mean),
            "reason": reason,
        }
        for layer, share in enumerate(shares)
    ]


def arrivals(table: Table) -> str:
    """By which layer the read-out knows each variable, in one sentence."""
    told = []
    for variable in VARIABLES:
        rows = table.rows(variable=variable)
        name = "the number of shots" if variable == SHOTS else variable
        if rows[0]["reason"]:
            told.append(f"{name}: undefined, {rows[0]['reason']}")
            continue
        layer = arrived([row["low"] for row in rows])
        if layer is None:
            told.append(f"{name}: at no layer")
            continue
        place = "only the final stream" if layer == len(rows) - 1 else f"the stream before layer {layer}"
        told.append(f"{name}: {place} ({number(rows[layer]['moved'])})")
    return (
        "From where on the answer goes with the read-out by more than half when one variable alone is swapped: "
        f"{'; '.join(told)}."
    )


def arrived(lows: Sequence[float]) -> int | None:
    """The first layer from which on every lower bound of the share exceeds a half; None if there is none.

    >>> arrived([0.0, 0.6, 0.2, 0.7, 1.0])
    3
    """
    later = [index for index, low in enumerate(lows) if not low > ARRIVED]
    first = later[-1] + 1 if later else 0
    return first if first < len(lows) else None


def _figures(table: Table) -> tuple[Figure, ...]:
    return (
        lines(
            table,
            "layer",
            "moved",
            "variable",
            "low",
            "high",
            title="From which layer on the read-out knows each variable",
            caption="Share of the way from the recipient's answer to the donor's, when the stream before a layer (at "
            "the right end: the final stream) is taken at the read-out from a prompt that differs in one variable.",
            name="variables",
        ),
    )
