"""What holds over training seeds: whether smeared keys bring the change earlier, and what is left without its edges.

In: scores over training of several seeds of a recipe, which ship without weights (zoo.seeds; made by
`python -m tools.seeds RECIPE`). Out: change points of every seed, the order of events over seeds, and two claims
about trainings. "Earlier" is a claim about trainings, of which one of each shows nothing. Smearing asks what helps
the circuit; knocking induction edges out of every training step asks what is needed for what it is said to
bring, learning in context. Prefix matching is no measure there, since its edges are gone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from headscope import zoo
from headscope.evidence import Judged, Test, claim
from headscope.measures.change_point import ChangePoint, change_point
from headscope.measures.intervals import Array
from headscope.measures.midpoints import order_of_events
from headscope.measures.samples import Samples
from headscope.measures.statistics import unpaired
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.phase_change.changes import ICL, PREFIX, PREVIOUS, REPEAT, SINKS
from headscope.studies.phase_change.settings import Ctx
from headscope.tables import Column, Quantity, Schema

PLAIN, SMEARED, WITHOUT_EDGES = "induction-2l", "induction-2l-smeared", "induction-2l-no-edges"
FEWEST = 5
LESS_MARGIN = 0.1
HALF_WAY = Quantity("half_way", "logarithm of the step at the midpoint of the change", "log steps")
SCORE = Quantity("icl_score", "later loss minus earlier loss at the last step", "nats")
SEEDS = Schema(
    "seeds",
    (
        Column("recipe", pl.String, "the recipe that was followed"),
        Column("seed", pl.Int64, "of weights and text"),
        Column("curve", pl.String, "what is followed over training"),
        Column("change_shown", pl.Boolean, "whether a change is shown, by the rule of the table changes"),
        Column("midpoint", pl.Float64, "step at which half of the change is made", "steps"),
        Column("last", pl.Float64, "the curve at the last step"),
    ),
)


ORDER = Schema(
    "order_over_seeds",
    (
        Column("recipe", pl.String, "the recipe that was followed"),
        Column("event", pl.String, "the curve whose change it is"),
        Column("midpoint", pl.Float64, "geometric mean of the midpoints of its change", "steps"),
        Column("low", pl.Float64, "lower 95% bound over seeds", "steps"),
        Column("high", pl.Float64, "upper 95% bound over seeds", "steps"),
        Column("seeds_with_it", pl.Int64, "seeds that show this change"),
        Column("seeds", pl.Int64, "seeds that were trained"),
        Column("surely_before", pl.String, "events that surely come later, by bounds for all pairs at once"),
        Column("reason", pl.String, "why there is no mean or bound; empty where there are both"),
    ),
)


def over_seeds(ctx: Ctx) -> Part:
    """Earlier with smeared keys, later or never without induction edges, and what comes first?"""
    if f"zoo:{PLAIN}" not in [each.name for each in ctx.histories]:
        return Part()
    shipped = {name: seeds for name in (PLAIN, SMEARED, WITHOUT_EDGES) if (seeds := zoo.seeds(name))}
    points = {name: _points(ctx, seeds) for name, seeds in shipped.items()}
    last = {name: [scores["icl_nats"][-1] for scores in seeds.values()] for name, seeds in shipped.items()}
    claims = [
        earlier(points.get(SMEARED, {}).get(PREFIX, []), points.get(PLAIN, {}).get(PREFIX, [])),
        edges_needed(last.get(WITHOUT_EDGES, []), last.get(PLAIN, [])),
    ]
    if not shipped:
        return Part(claims=claims, notes=["No scores of several seeds are kept: python -m tools.seeds makes them."])
    rows = [row for name, seeds in shipped.items() for row in _rows(name, seeds, points[name])]
    order = [row for name, own in points.items() for row in _order(name, own)]
    return Part(tables=[SEEDS.table(rows), ORDER.table(order)], claims=claims, says=_told(points))


def curves_of(scores: Mapping[str, Sequence[float]]) -> dict[str, Array]:
    """What is followed, by name, [step]."""
    own, null = (np.array(scores[name]) for name in ("prefix_matching", "prefix_matching_null"))
    named = {PREVIOUS: "previous_token", REPEAT: "second_copy_nats", ICL: "icl_nats", SINKS: "first_token"}
    return {PREFIX: own - null, **{curve: np.array(scores[name]) for curve, name in named.items()}}


def _points(ctx: Ctx, seeds: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, list[ChangePoint]]:
    """The change point of every curve of every seed, by curve."""
    found: dict[str, list[ChangePoint]] = {}
    for done, scores in enumerate(seeds.values()):
        ctx.progress("change points of every seed", done, len(seeds))
        for curve, values in curves_of(scores).items():
            found.setdefault(curve, []).append(
                change_point(np.array(scores["step"], np.float64), values, seed=ctx.settings.seed)
            )
    return found


def _rows(
    name: str, seeds: Mapping[str, Mapping[str, Sequence[float]]], points: Mapping[str, Sequence[ChangePoint]]
) -> list[dict[str, object]]:
    return [
        {
            "recipe": name,
            "seed": int(seed),
            "curve": curve,
            "change_shown": points[curve][place].shown,
            "midpoint": points[curve][place].midpoint,
            "last": float(values[-1]),
        }
        for place, (seed, scores) in enumerate(seeds.items())
        for curve, values in curves_of(scores).items()
    ]


def _order(name: str, points: Mapping[str, Sequence[ChangePoint]]) -> list[dict[str, object]]:
    found = order_of_events(points)
    return [
        {
            "recipe": name,
            "event": event,
            "midpoint": own.midpoint,
            "low": own.low,
            "high": own.high,
            "seeds_with_it": own.shown,
            "seeds": own.seeds,
            "surely_before": ", ".join(later for first, later in found.settled if first == event),
            "reason": own.reason,
        }
        for event, own in ((event, found.events[event]) for event in found.names)
    ]


def earlier(smeared: Sequence[ChangePoint], plain: Sequence[ChangePoint]) -> Claim:
    """Whether the midpoints of smeared trainings come before those of plain ones, over seeds."""
    sides = [[point.midpoint for point in side if point.shown] for side in (plain, smeared)]
    gap, why = (
        None,
        f"a change is shown in {len(sides[0])} and {len(sides[1])} seeds, and {FEWEST} of each are needed",
    )
    if min(map(len, sides)) >= FEWEST:
        before, after = (Samples.one(HALF_WAY, np.log(side), over="training seeds") for side in sides)
        gap = unpaired(before, after)
    return claim(
        "earlier",
        f"With smeared keys two-layer models change earlier in training ({SMEARED} before {PLAIN}).",
        tests=[Test("log midpoint, plain minus smeared", gap, above=0.0, reason=why)],
        tables=["seeds"] if gap is not None else [],
    )


def edges_needed(without: Sequence[float], plain: Sequence[float]) -> Claim:
    """Whether models that are trained without induction edges learn less in context, over seeds."""
    less, why = None, f"{len(plain)} and {len(without)} seeds, and {FEWEST} of each are needed"
    if min(len(without), len(plain)) >= FEWEST:
        sides = (Samples.one(SCORE, side, over="training seeds") for side in (without, plain))
        less = unpaired(*sides)
    tests: list[Judged] = [Test("ICL score without induction edges, minus with", less, above=LESS_MARGIN, reason=why)]
    return claim(
        "edges_needed",
        "Models trained without induction edges learn less in context than their siblings with them.",
        tests=tests,
        tables=["seeds"] if less is not None else [],
    )


def _told(points: Mapping[str, Mapping[str, Sequence[ChangePoint]]]) -> list[str]:
    said = []
    for name, own in points.items():
        for curve in (PREFIX, ICL):
            shown = sorted(point.midpoint for point in own[curve] if point.shown)
            where = f", midpoints {shown[0]:.0f} to {shown[-1]:.0f}" if shown else ""
            said.append(f"{name}: a change of {curve} is shown in {len(shown)} of {len(own[curve])} seeds{where}.")
    return said
