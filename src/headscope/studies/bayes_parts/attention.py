"""Whether the read-out attends more to the examples, the more there are: what a sum of features needs.

In: a model and the settings of a study of pairs. Out: a Part with the total attention of every head from the
read-out on the examples, by their number, and the claim "attention on examples grows". A softmax averages: what
a head brings from n like examples is their mean times its total attention on them. For n examples to add up to n
times one feature that total must grow with n; for a head that has nowhere else to look it stays near 1. Growth is
the exponent e of total ~ n^e from one example to all: 1 for a sum, 0 for an average.
"""

import numpy as np
import polars as pl

from headscope import tasks
from headscope.figures import lines
from headscope.measures import Simultaneous, side, simultaneous
from headscope.measures.estimates import PROMPTS, bounds, estimated
from headscope.measures.intervals import Array
from headscope.models.model import Model
from headscope.results.study import Claim, Figure, Verdict
from headscope.studies.bayes_parts.inside import Progress, attention_on
from headscope.studies.bayes_parts.problems import first_pairs, prompts_each, spans_of_examples
from headscope.studies.pairs import PairsConfig
from headscope.studies.parts import Part
from headscope.studies.words import number, undetermined
from headscope.tables import Column, Schema, Table
from headscope.tasks.shots import Shots
from headscope.tasks.split import ESTIMATION, SELECTION

# A head that puts less than this on all examples together brings little from them, however that grows.
LEAST_MASS = 0.1
# Half of what a sum needs.
GROWTH_MARGIN = 0.5
MOST_LINES = 6

MASS = Schema(
    "attention_on_examples",
    (
        Column("layer", pl.Int64, "layer, from 0"),
        Column("head", pl.Int64, "head within its layer, from 0"),
        Column("examples", pl.Int64, "pairs before the query"),
        Column("mass", pl.Float64, "attention of the read-out on all tokens of all pairs together"),
        *bounds("the mass"),
        Column("even", pl.Float64, "the same for a head that attends evenly"),
        PROMPTS,
    ),
)
GROWTH = Schema(
    "attention_growth",
    (
        Column("layer", pl.Int64, "layer, from 0"),
        Column("head", pl.Int64, "head within its layer, from 0"),
        Column("growth", pl.Float64, "exponent e of mass ~ n^e from one pair to all: 1 a sum, 0 an average"),
        Column("low", pl.Float64, "lower 95% bound of the growth, for all heads at once"),
        Column("high", pl.Float64, "upper 95% bound of the growth, for all heads at once"),
        Column("mass", pl.Float64, "mass on all pairs, with all of them there"),
        Column("picked", pl.Boolean, "grew most on the prompts of even number, among heads that look there"),
        PROMPTS,
    ),
)
_NAME = "attention_grows"
_STATEMENT = (
    "Attention on examples grows: some head's total attention from the read-out on the examples grows at least half "
    "as fast as their number, as a sum of features needs."
)


def part(config: PairsConfig, model: Model, progress: Progress) -> Part:
    """How does the attention on examples grow with their number?"""
    shots = config.draw(model, n=2 * prompts_each(config), seed=11)
    counts = _counts(shots.x.shape[1])
    masses, evens = [], []
    for done, count in enumerate(counts):
        progress("attention on examples", done, len(counts))
        mass, even = _masses(model, first_pairs(shots, count))
        masses.append(mass)
        evens.append(even)
    mass, even = np.stack(masses), np.stack(evens)
    growth = np.log(np.maximum(mass[-1], 1e-9) / np.maximum(mass[0], 1e-9)) / np.log(counts[-1])
    tables = {"attention_on_examples": _mass_table(model, counts, mass[:, ESTIMATION], even)}
    looking = mass[-1][SELECTION].mean(0) >= LEAST_MASS
    order = np.where(looking, growth[SELECTION].mean(0), -np.inf)
    picked = int(order.argmax())
    together = simultaneous(growth[ESTIMATION])
    tables["attention_growth"] = _growth_table(model, together, mass[-1][ESTIMATION], picked)
    claim = _judged(model, together, growth[ESTIMATION], mass[-1][ESTIMATION], picked, bool(looking.any()))
    return Part(tables, (claim,), _figures(model, tables["attention_on_examples"], order))


def _counts(most: int) -> list[int]:
    """1, 2, 4, ... and all."""
    doubled = [2**power for power in range(most.bit_length()) if 2**power < most]
    return [*doubled, most]


def _masses(model: Model, shots: Shots) -> tuple[Array, Array]:
    prompts = tasks.linear(model, shots)
    keys = [[position for span in spans for position in span] for spans in spans_of_examples(prompts)]
    return attention_on(model, prompts, keys)


def _mass_table(model: Model, counts: list[int], mass: Array, even: Array) -> Table:
    rows = []
    for index, count in enumerate(counts):
        for column, head in enumerate(model.heads):
            row = {"layer": head.layer, "head": head.index, "examples": count}
            beside = {"even": float(even[index, :, column].mean())}
            rows.append({**row, **estimated(mass[index, :, column], "mass"), **beside})
    return MASS.table(rows)


def _growth_table(model: Model, together: Simultaneous, mass: Array, picked: int) -> Table:
    return GROWTH.table(
        {
            "layer": head.layer,
            "head": head.index,
            "growth": float(together.mean[column]),
            "low": float(together.low[column]),
            "high": float(together.high[column]),
            "mass": float(mass[:, column].mean()),
            "picked": column == picked,
            "prompts": together.n,
        }
        for column, head in enumerate(model.heads)
    )


def _judged(
    model: Model, together: Simultaneous, growth: Array, mass: Array, picked: int, any_looks: bool
) -> Claim:
    tables = ("attention_growth", "attention_on_examples")
    if not any_looks:
        because = f"no head's read-out puts {LEAST_MASS} of its attention on the examples."
        return undetermined(_NAME, _STATEMENT, because, *tables)
    own = estimated(growth[:, picked], "growth")
    looking = mass.mean(0) >= LEAST_MASS
    highest = float(np.max(together.at_most[looking])) if looking.any() else float("nan")
    verdict = Verdict.of(side(own["low"], highest, GROWTH_MARGIN))
    because = (
        f"Of the heads that put {LEAST_MASS} or more on the examples, {model.heads[picked]} grew most on one half of "
        f"the prompts; on the other its attention goes with the number of examples to the power "
        f"{number(own['growth'])} [{number(own['low'])}, {number(own['high'])}] (1: a sum, 0: an average; margin "
        f"{GROWTH_MARGIN}), up to {number(mass[:, picked].mean())}. The power of no such head "
        f"exceeds {number(highest)}, with bounds for all at once."
    )
    return Claim(_NAME, _STATEMENT, verdict, because, tables)


def _figures(model: Model, table: Table, order: Array) -> tuple[Figure, ...]:
    """The heads that grow most, as lines."""
    chosen = [model.heads[column] for column in np.argsort(-order)[:MOST_LINES]]
    kept = [
        row for row in table.rows() if any((h.layer, h.index) == (row["layer"], row["head"]) for h in chosen)
    ]
    named = Schema(
        table.name,
        (Column("which", pl.String, "head"), *(c for c in MASS.columns if c.name not in ("layer", "head"))),
    )
    rows = [
        {
            "which": f"{row['layer']}.{row['head']}",
            **{k: v for k, v in row.items() if k not in ("layer", "head")},
        }
        for row in kept
    ]
    even = {row["examples"]: row["even"] for row in kept}
    for count, value in even.items():
        nothing = {"low": value, "high": value, "even": value, "prompts": kept[0]["prompts"]}
        rows.append({"which": "even attention", "examples": count, "mass": value, **nothing})
    return (
        lines(
            named.table(rows),
            "examples",
            "mass",
            "which",
            "low",
            "high",
            title="Attention of the read-out on all examples together",
            caption=f"The {MOST_LINES} heads at most whose attention grows fastest, beside one that attends evenly. "
            "A sum of features needs a straight line through 0; an average a level one.",
            name="attention_on_examples",
        ),
    )
