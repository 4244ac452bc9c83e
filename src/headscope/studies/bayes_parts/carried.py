"""Whether x is carried to y, into directions of its own: the first step of the article's third claim.

In: a model and the settings of a study of pairs. Out: a Part with what linear probes read at the y of each shown
pair, by layer (`carried`), how far the directions of x and of y overlap there (`overlap`), and the claim "x is
carried to y and orthogonal to it". Probes are fitted on some functions and judged on others; of those, half choose
the layer, the first that nearly has the most. Controls: the token itself (layer 0), since y tells something of x;
the x of the pair before, which is as near at hand to a head that looks at everything; shuffled x; and the y
before, which cannot know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headscope import tasks
from headscope.figures import lines
from headscope.measures import Side, interval, side
from headscope.measures.clusters import by_cluster, pseudo_values
from headscope.measures.directions import share_within, shared_square
from headscope.measures.intervals import Array
from headscope.measures.probes import Probe, digits, written_along
from headscope.models.model import Model
from headscope.results.study import Claim, Figure
from headscope.studies.bayes_parts.features import all_of
from headscope.studies.bayes_parts.inside import Progress, at_positions, stream_sites
from headscope.studies.bayes_parts.problems import Problems, of_each_example, prompts_each
from headscope.studies.pairs import PairsConfig
from headscope.studies.parts import Part
from headscope.studies.words import number, undetermined, with_bounds
from headscope.tables import Column, Schema, Table
from headscope.tasks.functions import Bools, Ints

SHOTS = 6
# r^2 beyond every control from which x counts as carried.
CARRIED_MARGIN = 0.1
# Of what x writes, the share in the directions of y may exceed that in random directions by so much.
OVERLAP_MARGIN = 0.1
NEAR_BEST = 0.9

OWN, BEFORE, SHUFFLED, EARLIER, COMMA = (
    "its x, at y",
    "the x before, at y",
    "shuffled x, at y",
    "its x, at the y before",
    "its x, where y is due",
)
CARRIED = Schema(
    "carried",
    (
        Column("layer", pl.Int64, "the stream before this layer; the last row is the final stream"),
        Column("told", pl.String, "what the probe is to tell, and where it looks"),
        Column("r2", pl.Float64, "1 - squared error / variance, on functions that the probe has not seen"),
        Column("low", pl.Float64, "lower 95% bound of r2 over functions"),
        Column("high", pl.Float64, "upper 95% bound of r2 over functions"),
        Column("functions", pl.Int64, "functions behind the mean, the unit of the bounds"),
    ),
)
OVERLAP = Schema(
    "overlap",
    (
        Column("layer", pl.Int64, "the stream before this layer; the last row is the final stream"),
        Column("within", pl.Float64, "share of what x writes that lies in the directions of y"),
        Column("low", pl.Float64, "lower 95% bound of the share, leaving functions out"),
        Column("high", pl.Float64, "upper 95% bound of the share, leaving functions out"),
        Column("random", pl.Float64, "the share in as many random directions"),
        Column("noise", pl.Float64, "the share in the directions that shuffled y seems to write"),
        Column("angles", pl.Float64, "mean squared cosine of the principal angles of both spaces"),
        Column("chosen", pl.Boolean, "the layer that other functions chose"),
    ),
)
_NAME = "x_carried"
_STATEMENT = (
    "x is carried to y and orthogonal to it: at the y of a shown pair a linear probe reads that pair's x, and what x "
    "writes there lies outside the directions of y."
)


@dataclass(frozen=True)
class Places:
    """Streams at three places of each pair but the first, [site, pair, model], and what was shown there.

    `function` [pair] numbers the functions.
    """

    at_y: Array
    at_comma: Array
    at_earlier: Array
    x: Ints
    x_before: Ints
    y: Ints
    function: Ints


def part(config: PairsConfig, model: Model, progress: Progress) -> Part:
    """What can be read of x where y stands?"""
    problems = Problems.of(config, model)
    count = len(problems.choices)
    if count < 4:
        because = "there are fewer than four functions: a probe must be judged on others than its own."
        empty = {schema.name: schema.table([]) for schema in (CARRIED, OVERLAP)}
        return Part(empty, (undetermined(_NAME, _STATEMENT, because, *empty),))
    groups = np.split(problems.choices, [count // 2, count // 2 + count // 4])
    places, each = [], prompts_each(config)
    for index, (functions, n) in enumerate(zip(groups, (2 * each, each, each), strict=True)):
        progress("streams at the examples", index, 3)
        places.append(_places(model, problems, functions, n, 61 + index))
    training, selection, estimation = places
    scores = {
        "selection": _scores(training, selection, config.seed),
        "": _scores(training, estimation, config.seed),
    }
    chosen = _first_near_best(_beyond(scores["selection"]).mean(0))
    overlap = OVERLAP.table(_overlaps(training, estimation, chosen, config.seed))
    tables = {"carried": _table(scores[""]), "overlap": overlap}
    return Part(tables, (judged(scores[""], overlap, chosen),), _figures(tables["carried"]))


def _places(model: Model, problems: Problems, functions: Ints, n: int, seed: int) -> Places:
    which = np.arange(n) % len(functions)
    shots = problems.about(functions[which], shots=min(SHOTS, problems.shots), seed=seed)
    prompts = tasks.linear(model, shots)
    ys = of_each_example(prompts, "y")
    last = [[each[-1] for each in example] for example in ys]
    first = [[each[0] - 1 for each in example] for example in ys]
    streams = [at_positions(model, prompts, stream_sites(model), where) for where in (last, first)]
    at_y, at_comma = (_flat(values[:, :, 1:]) for values in streams)
    repeats = shots.x.shape[1] - 1
    return Places(
        at_y,
        at_comma,
        _flat(streams[0][:, :, :-1]),
        shots.x[:, 1:].ravel(),
        shots.x[:, :-1].ravel(),
        shots.y[:, 1:].ravel(),
        np.repeat(which, repeats),
    )


def _flat(values: Array) -> Array:
    return values.reshape(len(values), -1, values.shape[-1])


def _scores(training: Places, judged_on: Places, seed: int) -> dict[str, Array]:
    """r^2 by function for every target, [function, site]."""
    largest = int(training.x.max())
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(training.x)), generator.permutation(len(judged_on.x))
    wanted = {
        OWN: ("at_y", training.x, judged_on.x),
        BEFORE: ("at_y", training.x_before, judged_on.x_before),
        SHUFFLED: ("at_y", training.x[shuffled[0]], judged_on.x[shuffled[1]]),
        EARLIER: ("at_earlier", training.x, judged_on.x),
        COMMA: ("at_comma", training.x, judged_on.x),
    }
    found = {}
    for told, (place, learnt, asked) in wanted.items():
        vectors, others = getattr(training, place), getattr(judged_on, place)
        each = [
            Probe.fit(own, digits(learnt, largest)).score(other, digits(asked, largest))
            for own, other in zip(vectors, others, strict=True)
        ]
        found[told] = by_cluster(np.stack(each, axis=1), judged_on.function)
    return found


def _beyond(scores: Mapping[str, Array]) -> Array:
    """How much more is told of x at y than by the best control, [function, site]."""
    own = scores[OWN]
    # A control that is worse than the mean knows nothing: it counts as 0, or being less bad would count as reading.
    return np.minimum(own - _known(own[:, :1]), own - _known(np.maximum(scores[BEFORE], scores[SHUFFLED])))


def _known(scores: Array) -> Array:
    return np.maximum(scores, 0.0)


def _first_near_best(values: Array) -> int:
    """The first layer that has most of what any has: what follows there is mixed with what is made of it."""
    best = float(values.max())
    return int((values >= best - (1 - NEAR_BEST) * abs(best)).argmax())


def _overlaps(training: Places, estimation: Places, chosen: int, seed: int) -> list[dict[str, object]]:
    vectors = np.concatenate((training.at_y, estimation.at_y), axis=1)
    x, y = (np.concatenate([getattr(p, name) for p in (training, estimation)]) for name in ("x", "y"))
    function = np.concatenate((training.function, estimation.function + training.function.max() + 1))
    of_x, of_y = digits(x, int(x.max())), digits(y, int(y.max()))
    mixed = np.random.default_rng(seed).permutation(len(x))
    rows: list[dict[str, object]] = []
    for layer, stream in enumerate(vectors):

        def within(kept: Bools, stream: Array = stream) -> float:
            return _within(stream[kept], of_x[kept], of_y[kept], function[kept])

        found = interval(pseudo_values(within, function, seed=seed))
        rows.append(
            {
                "layer": layer,
                "within": float(found.mean),
                "low": float(found.low),
                "high": float(found.high),
                "random": of_y.shape[1] / stream.shape[1],
                "noise": _within(stream, of_x, of_y[mixed], function),
                "angles": shared_square(*written_along(stream, of_x, of_y)),
                "chosen": layer == chosen,
            }
        )
    return rows


def _within(stream: Array, of_x: Array, of_y: Array, function: Ints) -> float:
    """Share of what x writes that lies in the directions of y, each measured on functions of its own."""
    folds = [function % 3 == fold for fold in range(3)]
    written = [written_along(stream[fold], of_x[fold], of_y[fold]) for fold in folds]
    turns = [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    return float(np.mean([share_within(written[i][0], written[j][0], written[k][1]) for i, j, k in turns]))


def judged(scores: Mapping[str, Array], overlap: Table, chosen: int) -> Claim:
    """Supported if x is told beyond every control and written outside y, both at the chosen layer."""
    own = scores[OWN]
    controls = {
        "y itself (layer 0)": own[:, 0],
        "the x before": scores[BEFORE][:, chosen],
        "shuffled x": scores[SHUFFLED][:, chosen],
    }
    more = {name: interval(own[:, chosen] - _known(values)) for name, values in controls.items()}
    least = min(more, key=lambda name: float(more[name].mean))
    # Not carried anywhere, or only not where the other functions said: the second refutes nothing.
    highest = max(float(interval(_beyond(scores)[:, site]).high) for site in range(own.shape[1]))
    carried = side(min(float(one.low) for one in more.values()), highest, CARRIED_MARGIN)
    row = overlap.rows(layer=chosen)[0]
    limit = row["random"] + OVERLAP_MARGIN
    apart = {Side.ABOVE: Side.BELOW, Side.BELOW: Side.ABOVE}.get(
        side(row["low"], row["high"], limit), Side.UNDETERMINED
    )
    # Where nothing is carried, the directions of x are noise, and their angle says nothing.
    sides: Sequence[Side] = (carried, apart) if carried is Side.ABOVE else (carried,)
    found = interval(own[:, chosen])
    r2 = {"r2": float(found.mean), "low": float(found.low), "high": float(found.high)}
    because = (
        f"At layer {chosen}, which other functions chose, a probe at y tells x with r² {with_bounds(r2, 'r2')}; "
        f"beyond {least}, the nearest control, {number(float(more[least].mean))} [{number(float(more[least].low))}, "
        f"{number(float(more[least].high))}] (margin {CARRIED_MARGIN})."
    )
    if carried is Side.ABOVE and row["within"] != row["within"]:
        because += " How that lies to the directions of y is undefined with so few pairs."
    elif carried is Side.ABOVE:
        because += (
            f" Of what x writes there, {with_bounds(row, 'within')} lies in the directions of y, in random ones "
            f"{number(row['random'])} would (margin {OVERLAP_MARGIN} more)."
        )
    return Claim(_NAME, _STATEMENT, all_of(sides), because, ("carried", "overlap"))


def _table(scores: Mapping[str, Array]) -> Table:
    rows = []
    for told, values in scores.items():
        found = interval(values)
        for layer in range(values.shape[1]):
            bounds = {"low": float(found.low[layer]), "high": float(found.high[layer])}
            mean = float(found.mean[layer])
            rows.append({"layer": layer, "told": told, "r2": mean, **bounds, "functions": found.n})
    return CARRIED.table(rows)


def _figures(table: Table) -> tuple[Figure, ...]:
    return (
        lines(
            table,
            "layer",
            "r2",
            "told",
            "low",
            "high",
            title="What a linear probe reads of x",
            caption="r² on functions that the probe has not seen, for the stream before each layer and the final "
            "one. At layer 0 a token knows nothing but itself: what a probe tells at y there, y gives away.",
            name="carried",
        ),
    )
