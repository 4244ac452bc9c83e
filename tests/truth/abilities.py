"""Claims of the abilities study, simulated: gains, attention and direct effects of eight heads, damages of sets."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from headscope.evidence import Test
from headscope.measures.intervals import Array
from headscope.measures.samples import Samples, over_heads
from headscope.results.study import Claim
from headscope.studies.abilities.attention import ATTENTION, RAISED, attends
from headscope.studies.abilities.experiment import GAIN, does_it
from headscope.studies.abilities.without_induction import edges_suffice, rests_on_induction
from headscope.sweeps.controls import AgainstRandom
from headscope.tasks.counterparts import BEHAVIOURS
from headscope.tasks.split import Split
from headscope.vocabulary import Head
from tests.truth import Case

PROMPTS, SETS = 50, 40
HEADS = [Head(layer, index) for layer in range(2) for index in range(4)]
INDUCTION = HEADS[4:6]


def done(rng: np.random.Generator) -> Test:
    """The behaviour itself, which the model does."""
    return does_it(Samples.one(GAIN, rng.normal(2.0, 0.8, PROMPTS)))


def at_the_counterpart(behaviour: str, seed: int, effect: float) -> Claim:
    """An induction head attends and raises; attends alone, while another head raises; or none of them attends.

    A head that is no induction head does both throughout.
    """
    rng = np.random.default_rng(seed)
    attention = [0.0, 0.6, 0.0, 0.0, 0.5 if effect >= 0 else 0.0, 0.0, 0.0, 0.0]
    raised = [0.0, 1.5, 0.0, 0.0, 1.5 * max(effect, 0.0), 1.5, 0.0, 0.0]

    def half() -> tuple[Samples, Samples]:
        spread = 0.02 + 0.3 * np.array(attention)
        read = np.clip(rng.normal(attention, spread, (PROMPTS, len(HEADS))), -1, 1)
        return over_heads(ATTENTION, HEADS, read), over_heads(
            RAISED, HEADS, rng.normal(raised, 0.3, (PROMPTS, len(HEADS)))
        )

    both = Split(half(), half())
    above, written = both.map(lambda each: each[0]), both.map(lambda each: each[1])
    return attends(behaviour, done(rng), "", INDUCTION, above, written)


def beside_sets(rng: np.random.Generator, own: Array) -> AgainstRandom:
    """Damages [prompt] of a set beside those of forty like it that cost about a third of a nat."""
    sets = rng.lognormal(-1.0, 0.5, SETS)
    damage = torch.from_numpy(rng.normal(sets[:, None], 0.2, (SETS, PROMPTS)))
    drawn = tuple((Head(0, index), Head(0, index + 1)) for index in range(SETS))
    return AgainstRandom(tuple(INDUCTION), torch.from_numpy(own), drawn, damage, SETS, "layers")


def without_the_heads(behaviour: str, seed: int, effect: float) -> Claim:
    """The heads cost more of the gain than all random sets, are one more of them, or help when they are gone."""
    rng = np.random.default_rng(seed)
    mean = {1: 3.0, 0: rng.lognormal(-1.0, 0.5), -1: -0.5}[int(effect)]
    return rests_on_induction(behaviour, done(rng), "", beside_sets(rng, rng.normal(mean, 0.2, PROMPTS)))


def without_their_edges(behaviour: str, seed: int, effect: float) -> Claim:
    """Of what ablation costs the edges alone cost nearly all, just half, or nothing."""
    rng = np.random.default_rng(seed)
    whole = rng.normal(3.0, 0.5, PROMPTS)
    edges = {1: 0.9, 0: 0.5, -1: 0.0}[int(effect)] * whole + rng.normal(0, 0.2, PROMPTS)
    return edges_suffice(behaviour, done(rng), "", beside_sets(rng, whole), beside_sets(rng, edges))


MADE: dict[str, Callable[[str, int, float], Claim]] = {
    "{}": at_the_counterpart,
    "rests_on_induction_{}": without_the_heads,
    "edges_suffice_{}": without_their_edges,
}
CASES: tuple[Case, ...] = tuple(
    Case(
        "abilities",
        name.format(behaviour),
        "samples of eight heads and of forty random sets",
        partial(make, behaviour),
    )
    for name, make in MADE.items()
    for behaviour in BEHAVIOURS
)
