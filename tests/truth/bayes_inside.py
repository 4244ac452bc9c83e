"""Claims of the bayes inside study, simulated.

`at(effect, true, near, false)` is a number in each world: as the claim says, at the nearest edge, and surely not.
"""

from dataclasses import replace

import numpy as np
import torch

from headscope.detectors.scores import ABOVE_NULL
from headscope.measures.samples import HEAD, LAYER, Samples, over_heads
from headscope.results.study import Claim
from headscope.studies.bayes import attention_growth as growth
from headscope.studies.bayes import attention_knockout as knockout
from headscope.studies.bayes import confidence, mlp_ablation, variables, x_probe
from headscope.studies.bayes import update_mediation as mediation
from headscope.studies.bayes.activations import LOG_ODDS, RESIDUAL, RISE
from headscope.studies.bayes.additive_features import Observed, features_add
from headscope.studies.bayes.increments import agreement_of
from headscope.studies.bayes.observations import RISE as PROBABILITY_RISE
from headscope.studies.bayes.pair_heads import STATED, flattens, heads_of_kind
from headscope.studies.bayes.vector_effects import CONTROLS, OWN
from headscope.sweeps.controls import AgainstRandom
from headscope.vocabulary import Head
from tests.truth import Case

UNITS, HEADS = 50, [Head(layer, index) for layer in range(3) for index in range(4)]


def at(effect: float, true: float, near: float, false: float) -> float:
    """The number that this world has."""
    return near if effect == 0 else true if effect > 0 else false


def rises(generator: np.random.Generator) -> Samples:
    return Samples.one(RISE, generator.normal(4, 1, UNITS))


def named(kind: str) -> Case:
    def make(seed: int, effect: float) -> Claim:
        # A head of the kind among eleven that are none; nearest to none: all at the margin.
        generator = np.random.default_rng(seed)
        mean = np.full(len(HEADS), at(effect, 0.0, 0.1, 0.0))
        mean[5] = at(effect, 0.4, 0.1, 0.0)
        values = np.clip(generator.normal(mean, 0.1, (UNITS, len(HEADS))), -1, 1)
        return heads_of_kind(kind, over_heads(ABOVE_NULL, HEADS, values))

    return Case("bayes", f"heads_{kind}", "samples", make)


def flattening(kind: str) -> Case:
    def make(seed: int, effect: float) -> Claim:
        # Three of sixteen heads; a set costs what its heads cost. Nearest to none: heads like all others.
        generator = np.random.default_rng(seed)
        cost = generator.normal(0.3, 0.1, 16)
        cost[:3] = {1: 1.5, 0: cost[:3], -1: 0.0}[int(effect)]
        sets = [tuple(generator.choice(np.arange(3, 16), 3, replace=False)) for _ in range(40)]
        damage = torch.from_numpy(generator.normal(cost[:3].sum(), 0.3, UNITS))
        others = torch.from_numpy(np.stack([generator.normal(cost[list(s)].sum(), 0.3, UNITS) for s in sets]))
        chosen = tuple(tuple(Head(int(i) // 4, int(i) % 4) for i in s) for s in sets)
        shrinkage = ((1 - 3 / 13) / (1 + 3 / 13)) ** 0.5
        made = AgainstRandom(tuple(HEADS[:3]), damage, chosen, others, 286, "size", shrinkage)
        rise = Samples.one(PROBABILITY_RISE, np.clip(generator.normal(0.6, 0.1, UNITS), -1, 1))
        return flattens(kind, made, rise)

    return Case("bayes", f"flattens_without_{kind}", "samples", make)


def attention_grows(seed: int, effect: float) -> Claim:
    # The head that grows, and one that does not; shots 1, 2, 4, ..., 16.
    generator, shots = np.random.default_rng(seed), np.array([1, 2, 4, 8, 16])
    exponents = np.array([at(effect, 0.8, 0.5, 0.2), at(effect, 0.1, 0.5, 0.1)])
    noise = np.exp(generator.normal(0, 0.15, (2 * UNITS, 2, len(shots))))
    values = np.clip(0.5 * (shots / 16) ** exponents[:, None] * noise, 0, 1).reshape(2 * UNITS, -1)
    cells = tuple((0, f"0.{head}", n) for head in range(2) for n in shots.tolist())
    made = Samples(quantity=growth.ATTENTION, axes=(LAYER, HEAD, growth.SHOTS), cells=cells, values=values)
    halves = growth.growth_of(made).halves()
    flat = halves.estimation.changed(
        growth.GROWTH, lambda v: np.full_like(v, 0.18) + generator.normal(0, 0.01, v.shape)
    )
    beyond = generator.normal(at(effect, 0.4, 0.4, 0.0), 0.1, halves.estimation.values.shape)
    more = replace(halves.estimation, quantity=growth.ATTENTION.difference(), values=beyond)
    return growth.attention_grows(halves, flat, more, ["0.0", "0.1"])


def edge_is_example(seed: int, effect: float) -> Claim:
    # Blocked attention leaves a share of what the examples add: none, the margin, or half.
    generator, doses = np.random.default_rng(seed), np.array([0, 2, 4, 6])
    worth = generator.normal(4, 0.5, (UNITS, 1)) * doses / 6
    noise = generator.normal(0, 0.2, (2, UNITS, len(doses)))
    left = {knockout.REMOVED: noise[0] - worth, knockout.HIDDEN: noise[0] - worth}
    left[knockout.FINAL_TOKEN] = noise[1] - worth * (1 - at(effect, 0.0, knockout.MARGIN, 0.5))
    axes = {knockout.WAY: left, knockout.TAKEN: doses.tolist()}
    return knockout.edge_is_example(Samples.grid(LOG_ODDS, axes, np.stack(list(left.values()), axis=1)))


def mlps_at_y(seed: int, effect: float) -> Claim:
    # As much more at the labels than at the final token as the margin, .4 nats of 4, is the nearest.
    generator = np.random.default_rng(seed)
    costs = {mlp_ablation.LABEL: 3.0, mlp_ablation.FINAL_TOKEN: at(effect, 1.0, 2.6, 3.5), mlp_ablation.X: 0.5}
    values = {(mlp_ablation.MLP, place): generator.normal(cost, 0.4, UNITS) for place, cost in costs.items()}
    damage = Samples.of(mlp_ablation.DAMAGE, (mlp_ablation.COMPONENT, mlp_ablation.PLACE), values)
    return mlp_ablation.mlps_at_y(damage, rises(generator))


def update_grows(seed: int, effect: float) -> Claim:
    generator = np.random.default_rng(seed)
    level = at(effect, 0.4, confidence.MARGIN, -0.3)
    own = {confidence.OUTPUT: level, confidence.ATTENTION: level, confidence.EXACT: 0.5}

    def parts(means: dict[str, float]) -> Samples:
        axes = (confidence.UPDATE, confidence.CONFIDENCE)
        values = {(u, confidence.AFTER): generator.normal(mean, 0.4, UNITS) for u, mean in means.items()}
        return Samples.of(confidence.CORRELATION, axes, values)

    return confidence.update_grows(parts(own), parts(dict.fromkeys(own, 0.0)), rises(generator))


def update_by_mlps(seed: int, effect: float) -> Claim:
    # Without the MLPs a tenth of the update is left; nearest: half of it, which is what they must carry.
    generator = np.random.default_rng(seed)
    none = at(effect, 0.1, 0.5, 0.9)
    shown = dict(zip((mediation.WHOLE, *mediation.LEFT), (1.0, (1 + none) / 2, none, 1.0), strict=True))
    prompt = generator.gamma(4, 0.25, UNITS)  # what each example tells
    values = {
        (labels, left): (prompt * mean if labels == mediation.SHOWN else 0.0) + generator.normal(0, 0.1, UNITS)
        for labels in (mediation.SHOWN, mediation.SHUFFLED)
        for left, mean in shown.items()
    }
    return mediation.update_by_mlps(Samples.of(mediation.UPDATE, (mediation.LABELS, mediation.OUTPUT), values))


def learnt_in_order(seed: int, effect: float) -> Claim:
    # One after another; nearest: parity and slope at the same layer; or the other way round.
    generator, depth = np.random.default_rng(seed), 8
    layers = {1: (1, 3, 5, 7), 0: (1, 4, 4, 7), -1: (7, 5, 3, 1)}[int(effect)]
    moved = {}
    for variable, layer in zip(variables.ORDER, layers, strict=True):
        way = generator.gamma(9, 0.5, size=(UNITS, 1))
        share = np.clip(0.5 + 0.4 * (np.arange(depth + 1) - layer + 0.5), 0, 1)
        values = way * (share + generator.normal(0, 0.4, (UNITS, depth + 1)))
        grid = Samples.grid(variables.MOVED, {RESIDUAL: range(depth + 1)}, values)
        moved[variable] = replace(grid, counts=np.tile(way, depth + 1))
    return variables.learnt_in_order(moved)


def x_carried(seed: int, effect: float) -> Claim:
    # Of x, as much beyond every control as the margin is the nearest; nothing beyond the x before is false.
    generator = np.random.default_rng(seed)
    r2 = {
        x_probe.OWN: at(effect, 0.6, 0.3 + x_probe.DECODABLE_MARGIN, 0.3),
        x_probe.BEFORE: 0.3,
        x_probe.SHUFFLED: -0.1,
    }
    values = {
        (target, layer): generator.normal(layer * mean, 0.08, UNITS // 2)
        for target, mean in r2.items()
        for layer in (0, 1)
    }
    scores = Samples.of(x_probe.R2, (x_probe.TARGET, RESIDUAL), values, over="functions")
    share = generator.normal(0.1, 0.05, (12, 2))
    overlap = Samples.grid(x_probe.OVERLAP, {RESIDUAL: (0, 1)}, share, over="function groups")
    return x_probe.x_carried(scores, overlap, 0.1, 1)


def features(seed: int, effect: float) -> Claim:
    # Increments with a common part, each worth .4 nats of the .5 of an example; nearest: the tenth of it.
    generator, doses, functions = np.random.default_rng(seed), np.arange(7.0), 16
    common = at(effect, 1.0, 1.0, 0.0)
    steering = at(effect, 0.4, 0.05, 0.0)
    increments = [
        agreement_of(
            (1 - common) * generator.normal(size=(1, 6, 1, 24))
            + common * generator.normal(size=24)
            + 0.5 * generator.normal(size=(1, 6, 12, 24)),
            number,
            draws=20,
        )
        for number in range(functions)
    ]
    curves = {name: 0.02 * generator.normal(size=(functions, 1, 7)) for name in CONTROLS}
    curves[OWN] = steering * doses + 0.02 * generator.normal(size=(functions, 1, 7))
    real = generator.normal(0.5, 0.1, (functions, 1)) * doses
    return features_add(Observed(increments, curves, real, doses), 0)


CASES: tuple[Case, ...] = (
    *(named(kind) for kind in STATED),
    *(flattening(kind) for kind in STATED),
    Case("bayes", "attention_grows", "samples", attention_grows),
    Case("bayes", "edge_is_example", "samples", edge_is_example),
    Case("bayes", "mlps_at_y", "samples", mlps_at_y),
    Case("bayes", "update_grows", "samples", update_grows),
    Case("bayes", "update_by_mlps", "samples", update_by_mlps),
    Case("bayes", "learnt_in_order", "samples", learnt_in_order),
    Case("bayes", "x_carried", "samples", x_carried),
    Case("bayes", "features_add", "samples", features),
)
