"""Claims of the redundancy study, simulated: probabilities by problem, with the layer that forms the task planted."""

import numpy as np

from headscope.evidence import Test
from headscope.measures.intervals import Array
from headscope.measures.samples import LAYER, Samples, over_heads
from headscope.results.study import Claim
from headscope.studies.redundancy.attention_to_examples import MORE, looks_back
from headscope.studies.redundancy.iterative_ablation import answer_remains, formed_later, still_formed, survives
from headscope.studies.redundancy.joint_ablation import JOINTLY, SINGLY, Joint, redundant
from headscope.studies.redundancy.parity import parity_later
from headscope.studies.redundancy.patching import ANSWER, CONTROL, EXCESS, MARGIN, PROBABILITY
from headscope.studies.redundancy.repeats import WHOSE, repeated
from headscope.studies.redundancy.rounds import KEPT, KEPT_SHARE
from headscope.studies.redundancy.self_repair import LABELS, NEWLY, SHARE, Growth, backups
from headscope.studies.redundancy.transfer import carried
from headscope.tasks.source_and_target import CONTROLS, TASK
from headscope.tasks.split import Split
from headscope.vocabulary import Head
from tests.truth import Case

N, LAYERS = 50, 6
HEADS = [Head(2, index) for index in range(3)]


def noisy(rng: np.random.Generator, *shape: int, sd: float = 0.15) -> Array:
    """Mean 0 whatever the layer, a little skewed as probabilities are."""
    noise: Array = sd * (rng.gamma(4.0, 1.0, size=(N, *shape)) - 4.0) / 2.0
    return noise


def above(rng: np.random.Generator, by_layer: list[float]) -> Split[Samples]:
    """Excess of f(target x) above both controls, both halves; none for a · target x."""
    axes = {CONTROL: CONTROLS, ANSWER: TASK, LAYER: range(len(by_layer))}
    means = np.stack([np.array(by_layer), np.zeros(len(by_layer))])

    def half() -> Samples:
        return Samples.grid(EXCESS, axes, (means + noisy(rng, 2, 2, len(by_layer), sd=0.08)).clip(-1, 1))

    return Split(half(), half())


def kept(rng: np.random.Generator, mean: float = 0.3) -> Test:
    return answer_remains(Samples.one(KEPT, (mean + noisy(rng)).clip(-KEPT_SHARE, 1)))


def height(effect: float) -> float:
    """What a layer transfers: clearly something, exactly the margin, or nothing."""
    return {1.0: 0.5, 0.0: MARGIN, -1.0: 0.0}[effect]


def _carried(seed: int, effect: float) -> Claim:
    return carried([], above(np.random.default_rng(seed), [0.0, 0.0, 0.0, height(effect), 0.0, 0.0]))


def _redundant(seed: int, effect: float) -> Claim:
    rng = np.random.default_rng(seed)
    return still_formed([], kept(rng), above(rng, [0.0, 0.0, 0.0, 0.0, height(effect), 0.0]))


def _forms_later(seed: int, effect: float) -> Claim:
    """False at its nearest: an earlier layer transfers exactly the margin."""
    rng, early = np.random.default_rng(seed), {1.0: 0.0, 0.0: MARGIN, -1.0: 0.5}[effect]
    return formed_later([], kept(rng), above(rng, [0.0, 0.0, early, 0.0, 0.5, 0.5]), [4, 5])


def _survives(seed: int, effect: float) -> Claim:
    return survives([], kept(np.random.default_rng(seed), 0.2 * effect))


def _stand_in(what: str, seed: int, effect: float) -> Claim:
    """Nearest: the damages add up."""
    rng = np.random.default_rng(seed)
    singly = 1.0 + noisy(rng)
    values = (JOINTLY, singly * (1 + 0.5 * effect) + noisy(rng)), (SINGLY, singly)
    jointly, alone = (Samples.one(quantity, each) for quantity, each in values)
    return redundant([], f"{what}_stand_in", what, Joint(jointly, alone), "")


def _backups(seed: int, effect: float) -> Claim:
    """Nearest: a head attends as much more with labels shuffled; with -1 none attends more at all."""
    rng = np.random.default_rng(seed)

    def halves(mean: float) -> Split[Samples]:
        values = (np.array([mean, 0.3, 0.3]) + noisy(rng, len(HEADS))).clip(0, 1)
        return Split(*(over_heads(SHARE, HEADS, values).labelled(NEWLY, "layer 0") for _ in range(2)))

    before, grown = halves(0.3), 0.3 * (effect >= 0)
    after, null = halves(0.3 + grown), halves(0.3 + grown * (effect == 0))
    shuffled = Split(*(new - old for new, old in zip(null, before, strict=True)))
    return backups([], {LABELS: Growth(LABELS, before, after, shuffled)})


def _looks_back(seed: int, effect: float) -> Claim:
    rng, mean = np.random.default_rng(seed), {1.0: 0.6, 0.0: MARGIN, -1.0: 0.0}[effect]
    return looks_back(over_heads(MORE, HEADS, (np.array([mean, 0.6, 0.6]) + noisy(rng, len(HEADS))).clip(-1, 1)))


def _repeats(seed: int, effect: float) -> Claim:
    """Nearest: the source's answers are likelier by exactly the margin."""
    rng = np.random.default_rng(seed)
    source, target = {1.0: (0.6, 0.2), 0.0: (0.4, 0.3), -1.0: (0.2, 0.6)}[effect]
    values = (np.array([source, target]) + noisy(rng, 2)).clip(0, 1)
    return repeated([], 3, Samples.grid(PROBABILITY, {WHOSE: ("source", "target")}, values))


def _parity(seed: int, effect: float) -> Claim:
    """False at its nearest: the first layer transfers parity by exactly the margin."""
    rng, first = np.random.default_rng(seed), {1.0: -0.05, 0.0: MARGIN, -1.0: 0.4}[effect]

    def half() -> Samples:
        means = np.array([0.0, first, 0.4, 0.4])
        return Samples.grid(EXCESS, {LAYER: range(4)}, (means + noisy(rng, 4)).clip(-1, 1))

    return parity_later([], 1, Split(half(), half()))


CASES: tuple[Case, ...] = tuple(
    Case("redundancy", name, "samples", make)
    for name, make in (
        ("carried", _carried),
        ("redundant", _redundant),
        ("forms_later", _forms_later),
        ("survives", _survives),
        ("layers_stand_in", lambda seed, effect: _stand_in("layers", seed, effect)),
        ("heads_stand_in", lambda seed, effect: _stand_in("heads", seed, effect)),
        ("backups", _backups),
        ("looks_back", _looks_back),
        ("repeats", _repeats),
        ("parity", _parity),
    )
)
