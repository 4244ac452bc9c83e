"""Claims of the vectors study, simulated: functions, or prompts of one task, that are answered or not, and heads.

A unit of the first kind has five problems and a rate of its own; one of the second is one prompt, right or wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from headscope.evidence import Test
from headscope.measures.intervals import Array
from headscope.measures.rankings import agreement
from headscope.measures.samples import LAYER, Samples, over_heads
from headscope.results.study import Claim
from headscope.studies.vectors import effects
from headscope.studies.vectors.different_heads import heads_differ
from headscope.studies.vectors.effects import DIFFERENCE
from headscope.studies.vectors.function_vector import CarriedByHeads, few_heads
from headscope.studies.vectors.head_effects import INDIRECT_EFFECT
from headscope.studies.vectors.matter_more import FUNCTION_VECTOR, GROUP, INDUCTION, LOST, Ablated
from headscope.studies.vectors.matter_more import function_vector_heads_more as more
from headscope.studies.vectors.task_not_answer import Transferred, task_rather_than_answer
from headscope.studies.vectors.task_vector import single_vector as judged
from headscope.sweeps.controls import AgainstRandom
from headscope.tasks.transfer import DUMMYS, OWN
from headscope.vocabulary import Head
from tests.truth import Case

LAYERS, CHOSEN = 6, 3
HEADS, TOP, SETS = [Head(layer, index) for layer in range(8) for index in range(4)], 4, 20


@dataclass(frozen=True)
class World:
    """So many units of so many problems each; a single problem has no rate of its own but that of all."""

    units: int
    problems: int
    over: str

    def accuracy(self, generator: np.random.Generator, mean: float) -> Array:
        """Share of each unit's problems that are right, [unit]."""
        if mean in (0.0, 1.0):
            return np.full(self.units, mean)
        same = np.full(self.units, mean)
        each = generator.beta(8 * mean, 8 * (1 - mean), self.units) if self.problems > 1 else same
        return generator.binomial(self.problems, each) / self.problems

    def by_layer(self, generator: np.random.Generator, there: float, elsewhere: float = 0.0) -> Samples:
        """Accuracy before every layer: this at the chosen one, and what is there without a task at others."""
        columns = [self.accuracy(generator, there if layer == CHOSEN else elsewhere) for layer in range(LAYERS)]
        return Samples.grid(effects.ACCURACY, {LAYER: range(LAYERS)}, np.stack(columns, 1), over=self.over)

    def one(self, generator: np.random.Generator, mean: float) -> Samples:
        return Samples.one(effects.ACCURACY, self.accuracy(generator, mean), over=self.over)

    def gain(self, generator: np.random.Generator) -> Samples:
        return effects.difference(self.one(generator, 0.9), self.one(generator, 0.03))

    def recovered(self, generator: np.random.Generator, right: Samples, examples: Samples) -> Samples:
        return effects.recovered(right - self.one(generator, 0.03), examples).choosing(layer=CHOSEN)

    def kinds(self, rng: np.random.Generator) -> list[Test]:
        """What both claims about kinds of heads need: the task is done, and there are heads of both kinds."""
        effect, attention = (
            Samples.one(DIFFERENCE, rng.normal(mean, 0.1, self.units), over=self.over) for mean in (0.2, 0.4)
        )
        needs = Test("effect", effect, above=0.0), Test("attention", attention, above=0.1)
        return [*taught(self.gain(rng)), *needs]


FUNCTIONS, ONE_TASK = World(80, 5, "functions"), World(150, 1, "prompts of past_tense")


def beyond(mine: Samples, theirs: Samples) -> Samples:
    return effects.difference(mine, theirs).choosing(layer=CHOSEN)


def taught(examples: Samples) -> list[Test]:
    names = ("accuracy with examples minus without", "accuracy with examples minus with shuffled labels")
    return [Test(name, examples, above=effects.MARGIN) for name in names]


def single_vector(world: World, seed: int, effect: float) -> Claim:
    """The task vector answers as examples do; half as well as they do; or nothing."""
    rng = np.random.default_rng(seed)
    examples, right = world.gain(rng), world.by_layer(rng, {1.0: 0.85, 0.0: 0.03 + 0.87 / 2, -1.0: 0.06}[effect])
    return judged(taught(examples), world.recovered(rng, right, examples), beyond(right, world.by_layer(rng, 0.03)))


def task_not_answer(world: World, seed: int, effect: float) -> Claim:
    """What is transferred is the function; both alike; or the answer of the vector's own prompt."""
    rng = np.random.default_rng(seed)
    right, copy, follows = {1.0: (0.8, 0.05, 0.7), 0.0: (0.45, 0.35, 0.45), -1.0: (0.03, 0.9, 0.03)}[effect]
    own, other = world.by_layer(rng, right), world.by_layer(rng, 0.03)
    copied = world.by_layer(rng, copy)
    return task_rather_than_answer(
        taught(world.gain(rng)),
        Transferred(
            beyond(own, world.by_layer(rng, 0.03)),
            beyond(own, copied),
            beyond(world.by_layer(rng, follows), other),
            beyond(copied, world.one(rng, 0.03)),
            beyond(world.by_layer(rng, follows), world.one(rng, 0.03)),
            OWN if right > copy else DUMMYS,
        ),
    )


def few(world: World, seed: int, effect: float) -> Claim:
    """The sum of the top heads recovers most of the gain; half of it; or no more than other heads do."""
    rng = np.random.default_rng(seed)
    examples, right = world.gain(rng), world.by_layer(rng, {1.0: 0.75, 0.0: 0.03 + 0.87 / 2, -1.0: 0.06}[effect])
    controls = {name: beyond(right, world.by_layer(rng, 0.05)) for name in ("random heads", "random direction")}
    controls["other function"] = beyond(right, world.by_layer(rng, 0.02))
    carried = CarriedByHeads(world.recovered(rng, right, examples), controls, controls["other function"])
    return few_heads(taught(examples), carried)


def different_heads(world: World, seed: int, effect: float) -> Claim:
    """Scores rank different heads; heads of which three of four are the same, which is the margin; or the same."""
    rng = np.random.default_rng(seed)
    clear = np.zeros((2, len(HEADS)))
    clear[0, :TOP] = strength = np.array([0.5, 0.45, 0.4, 0.35])
    first = {1.0: 10, 0.0: 1, -1.0: 0}[effect]
    clear[1, first : first + TOP] = strength
    halves = [[mean + rng.normal(0, 0.3, (world.units, len(HEADS))) for _ in range(2)] for mean in clear]
    own, other = (over_heads(INDIRECT_EFFECT, HEADS, half[1], over=world.over) for half in halves)
    top = tuple(tuple(HEADS[k] for k in np.argsort(-half[0].mean(0))[:TOP]) for half in halves)
    return heads_differ(world.kinds(rng), agreement(own, other, (top[0], top[1]), seed=seed))


def matter_more(world: World, seed: int, effect: float) -> Claim:
    """Function-vector heads cost much; what random heads do, and more than induction heads; or nothing."""
    rng = np.random.default_rng(seed)
    mine, theirs, usual = {1.0: (0.5, 0.1, 0.1), 0.0: (0.4, 0.1, 0.4), -1.0: (0.02, 0.3, 0.1)}[effect]
    lost = [0.9 - world.accuracy(rng, 0.9 - cost) for cost in (mine, theirs)]
    sets = np.clip(rng.normal(usual, 0.05, SETS), 0.0, 0.9)
    drawn = torch.from_numpy(np.stack([0.9 - world.accuracy(rng, 0.9 - cost) for cost in sets]))
    if effect == 0:  # the function-vector heads are one more random set
        lost[0] = 0.9 - world.accuracy(rng, 0.9 - rng.normal(usual, 0.05))
    groups = {GROUP: [FUNCTION_VECTOR, INDUCTION]}
    by_group = Samples.grid(LOST, groups, np.stack(lost, 1), over=world.over)
    own = AgainstRandom((HEADS[0],), torch.from_numpy(lost[0]), ((HEADS[1],),) * SETS, drawn, 999, "layers")
    return more(world.kinds(rng), Ablated(by_group, by_group, {FUNCTION_VECTOR: own}, {}))


MAKE: dict[str, Callable[[World, int, float], Claim]] = {
    "single_vector": single_vector,
    "task_not_answer": task_not_answer,
    "few_heads": few,
    "different_heads": different_heads,
    "matter_more": matter_more,
}
CASES: tuple[Case, ...] = tuple(
    Case("vectors", claim, by, partial(make, world))
    for by, world in (("samples", FUNCTIONS), ("samples of one task", ONE_TASK))
    for claim, make in MAKE.items()
)
