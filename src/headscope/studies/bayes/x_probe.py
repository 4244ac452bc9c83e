"""Is x decodable at its label, in directions of its own?

In: a model and settings. Out: what linear probes decode at the label of each shown pair, by layer; how far the
directions of x and of y overlap there; and the claim "x_carried" (step 1 of claim 3 of `sources.REDUNDANT_HEADS`).
Probes are fitted on some functions and judged on others, of which half choose the layer, the first that nearly has
the most. Controls: the token itself (layer 0), since y tells something of x; the x of the pair before, as near at
hand to a head that attends everywhere; shuffled x; and the label before. What is decodable need not be used
(Belinkov 2022).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headscope import tasks
from headscope.evidence import Test, any_of, claim, lines, table
from headscope.measures.clusters import by_cluster, pseudo_values
from headscope.measures.directions import share_within, shared_square
from headscope.measures.intervals import Array
from headscope.measures.probes import Probe, digits, written_along
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.bayes.activations import RESIDUAL, unanswered
from headscope.studies.bayes.problems import Ctx, Problems, prompts_each, role_by_example
from headscope.studies.context import Part
from headscope.studies.sites import at_positions, residual_sites, stacked
from headscope.tables import Column, Quantity
from headscope.tasks.functions import Ints
from headscope.tasks.split import Split

SHOTS = 6
# r² beyond every control from which x counts as decodable.
DECODABLE_MARGIN = 0.1
# Of what x writes, the share in the directions of y may exceed that in random directions by so much.
OVERLAP_MARGIN = 0.1
NEAR_BEST = 0.9
NAME = "x_carried"
STATEMENT = "At the label of a pair a linear probe decodes that pair's x, in directions other than the label's."

OWN, BEFORE, SHUFFLED = "its x, at the label", "the x before, at the label", "shuffled x, at the label"
EARLIER, DUE = "its x, at the label before", "its x, one token before"
TARGET = Column("target", pl.String, "what the probe is to decode, and where")
R2 = Quantity("r2", "1 - squared error / variance, on functions that the probe has not seen")
BEYOND = Quantity("r2_beyond", "r² of its x at the label, minus that of the control, or 0 where this is negative")
CONTROL = Column("control", pl.String, "what else might be decoded; nearest: the best of these, function by function")
NEAREST = "nearest"
OVERLAP = Quantity("overlap", "share of what x writes at the label that lies in the directions of y")
RANDOM = Column("random", pl.Float64, "the share in as many random directions")
NOISE = Column("noise", pl.Float64, "the share in the directions that shuffled y seems to write")
ANGLES = Column("angles", pl.Float64, "mean squared cosine of the principal angles of both spaces")


@dataclass(frozen=True)
class Examples:
    """Residual streams at three places of each pair but the first, [site, pair, model], and what was shown there.

    `function` [pair] numbers the functions.
    """

    at_label: Array
    at_due: Array
    at_earlier: Array
    x: Ints
    x_before: Ints
    y: Ints
    function: Ints


def x_probe(ctx: Ctx) -> Part:
    """What of x can be decoded where its label stands?"""
    problems = Problems.of(ctx.settings, ctx.model)
    count, n, seed = len(problems.choices), prompts_each(ctx.settings), ctx.settings.seed
    if count < 4:
        return unanswered(NAME, STATEMENT, "fewer than four functions: a probe is judged on others than its own")
    examples = []
    groups = np.split(problems.choices, [count // 2, count // 2 + count // 4])
    for index, (functions, prompts) in enumerate(zip(groups, (2 * n, n, n), strict=True)):
        ctx.progress("residual streams at the examples", index, 3)
        examples.append(_examples(ctx, problems, functions, prompts, 61 + index))
    training, *others = examples
    r2 = Split(*others).map(lambda judged: _scores(training, judged, seed))
    # The stream before layer 0 is the label itself, which is a control: no layer to choose.
    layer = 1 + first_near_best(beyond(r2.selection).at(control=NEAREST).mean[1:])
    overlap, more = _overlaps((training, others[1]), seed)
    figure = lines(
        r2.estimation,
        "layer",
        colour="target",
        name="x_probe",
        title="What a linear probe decodes of x",
        caption="r² on functions new to the probe, in the residual stream before each layer and after all, "
        f"mean over {len(r2.estimation.units)} functions. At layer 0 a label has its own token alone.",
    )
    return Part(
        tables=[
            table(r2.estimation, "x_probe"),
            table(beyond(r2.estimation), "x_probe_beyond_controls"),
            table(overlap, "x_overlap", more=more),
        ],
        claims=[x_carried(r2.estimation, overlap, more[RANDOM][layer], layer)],
        figures=[figure],
    )


def beyond(r2: Samples) -> Samples:
    """How much more is decoded of x at its label than by each control, [function, (control, layer)]."""
    at = {target: samples.values for target, samples in r2.by("target").items()}
    own = at[OWN]
    controls = {"the label itself": own[:, :1], "the x before": at[BEFORE], "shuffled x": at[SHUFFLED]}
    # A control worse than the mean knows nothing, or being less bad would count as decoding.
    more = {name: own - np.maximum(values, 0.0) for name, values in controls.items()}
    more[NEAREST] = np.min(list(more.values()), axis=0)
    axes = {CONTROL: more, RESIDUAL: r2.coordinates("layer")}
    return Samples.grid(BEYOND, axes, np.stack(list(more.values()), axis=1), over=r2.over)


def first_near_best(values: Array) -> int:
    """The first layer that has most of what any has: what follows there is mixed with what is made of it."""
    best = float(values.max())
    return int((values >= best - (1 - NEAR_BEST) * abs(best)).argmax())


def x_carried(r2: Samples, overlap: Samples, random: float, layer: int) -> Claim:
    """Decoded beyond every control, and written outside y, at the layer that other functions chose."""
    controls = beyond(r2).only(control=lambda name: name != NEAREST, layer=lambda layer: layer > 0).by("control")
    tests: list[Test] = [
        any_of(f"r² of x beyond that of {name}", more.choosing(layer=layer), above=DECODABLE_MARGIN)
        for name, more in controls.items()
    ]
    # Where x cannot be decoded its directions are noise, and their angle says nothing.
    if all(test.row("test").side == "yes" for test in tests):
        share, margin = overlap.at(layer=layer), random + OVERLAP_MARGIN
        tests.append(Test("share of what x writes in the directions of y", share, below=margin))
    return claim(NAME, STATEMENT, tests=tests, tables=("x_probe", "x_probe_beyond_controls", "x_overlap"))


def _examples(ctx: Ctx, problems: Problems, functions: Ints, n: int, seed: int) -> Examples:
    which = np.arange(n) % len(functions)
    shots = problems.about(functions[which], shots=min(SHOTS, problems.shots), seed=seed)
    prompts = tasks.linear(ctx.model, shots)
    labels = role_by_example(prompts, "y")
    last = [[label[-1] for label in row] for row in labels]
    due = [[label[0] - 1 for label in row] for row in labels]
    where = residual_sites(ctx.model)
    label, comma = (stacked(at_positions(ctx.model, prompts, where, each)) for each in (last, due))
    each = (label[:, :, 1:], comma[:, :, 1:], label[:, :, :-1])
    at_label, at_due, at_earlier = (values.reshape(len(where), -1, values.shape[-1]) for values in each)
    shown = (shots.x[:, 1:].ravel(), shots.x[:, :-1].ravel(), shots.y[:, 1:].ravel())
    return Examples(at_label, at_due, at_earlier, *shown, np.repeat(which, shots.x.shape[1] - 1))


def _scores(training: Examples, judged: Examples, seed: int) -> Samples:
    """r² by function for every target, [function, (target, layer)]."""
    largest = int(training.x.max())
    generator = np.random.default_rng(seed)
    mixed = generator.permutation(len(training.x)), generator.permutation(len(judged.x))
    wanted = {
        OWN: ("at_label", training.x, judged.x),
        BEFORE: ("at_label", training.x_before, judged.x_before),
        SHUFFLED: ("at_label", training.x[mixed[0]], judged.x[mixed[1]]),
        EARLIER: ("at_earlier", training.x, judged.x),
        DUE: ("at_due", training.x, judged.x),
    }
    scores = []
    for place, learnt, asked in wanted.values():
        learnt_digits, asked_digits = digits(learnt, largest), digits(asked, largest)
        by_site = zip(getattr(training, place), getattr(judged, place), strict=True)
        each = [Probe.fit(own, learnt_digits).score(other, asked_digits) for own, other in by_site]
        scores.append(by_cluster(np.stack(each, axis=1), judged.function))
    layers = range(len(training.at_label))
    return Samples.grid(R2, {TARGET: wanted, RESIDUAL: layers}, np.stack(scores, axis=1), over="functions")


def _overlaps(both: Sequence[Examples], seed: int) -> tuple[Samples, dict[Column, Mapping[int, float]]]:
    """The overlap, [function group, layer], by leaving groups of functions out; and what stands beside it."""
    training, judged = both
    vectors = np.concatenate([each.at_label for each in both], axis=1)
    x, y = (np.concatenate([getattr(each, name) for each in both]) for name in ("x", "y"))
    function = np.concatenate((training.function, judged.function + training.function.max() + 1))
    of_x, of_y = digits(x, int(x.max())), digits(y, int(y.max()))
    mixed = of_y[np.random.default_rng(seed).permutation(len(x))]
    layers = range(len(vectors))

    def by_leaving_out(at: Array) -> Array:
        return pseudo_values(lambda k: _overlap(at[k], of_x[k], of_y[k], function[k]), function, seed=seed)

    values = [by_leaving_out(at) for at in vectors]
    more: dict[Column, Mapping[int, float]] = {
        RANDOM: dict.fromkeys(layers, of_y.shape[1] / vectors.shape[2]),
        NOISE: {layer: _overlap(at, of_x, mixed, function) for layer, at in enumerate(vectors)},
        ANGLES: {layer: shared_square(*written_along(at, of_x, of_y)) for layer, at in enumerate(vectors)},
    }
    return Samples.grid(OVERLAP, {RESIDUAL: layers}, np.stack(values, axis=1), over="function groups"), more


def _overlap(stream: Array, of_x: Array, of_y: Array, function: Ints) -> float:
    """Share of what x writes that lies in the directions of y, each measured on functions of its own."""
    folds = [function % 3 == fold for fold in range(3)]
    written = [written_along(stream[fold], of_x[fold], of_y[fold]) for fold in folds]
    turns = [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    return float(np.mean([share_within(written[i][0], written[j][0], written[k][1]) for i, j, k in turns]))
