"""Claims of the study of phase changes, simulated: trainings in which one head becomes an induction head, or not."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from headscope.measures.change_point import ChangePoint, change_point
from headscope.measures.intervals import Array
from headscope.results.study import Claim
from headscope.studies.context import Context
from headscope.studies.phase_change.changes import changed, constant, points, together
from headscope.studies.phase_change.circuit import CASES, Circuit
from headscope.studies.phase_change.head_ablations import lost, rests
from headscope.studies.phase_change.readings import KINDS, Chosen, Read, Reading
from headscope.studies.phase_change.seeds import earlier, edges_needed
from headscope.studies.phase_change.settings import PhaseSettings
from headscope.studies.phase_change.two_heads import reads
from headscope.vocabulary import Head
from tests.truth import Case

STEPS = tuple(range(0, 1300, 50))
HEADS = (Head(0, 0), Head(0, 1), Head(1, 0), Head(1, 1))
PROMPTS, TEXTS, LENGTH, MIDDLE = 32, 64, 64, 600.0
SETTINGS = PhaseSettings(early=5, late=60, preserving=False)


def risen(step: float, sharpness: float = 12.0) -> float:
    """How much of the change is made: a logistic of the logarithm of the step."""
    return 0.0 if step == 0 else float(1 / (1 + (step / MIDDLE) ** -sharpness))


def training(
    seed: int,
    *,
    height: float = 0.7,
    drift: bool = False,
    learns: float = 1.0,
    late: float = 0.0,
    cut: tuple[float, float] = (0.5, 0.0),
    undone: tuple[float, float] = (0.5, 0.0),
) -> Read:
    """A training in which head 1.0 becomes an induction head; everything else stays as it is.

    `height` of its prefix matching in the end, at once or as a `drift`; `learns` nats of ICL score, and `late` nats
    more after the change; `cut` is lost with the paths of the previous-token head and of another head, `undone` of
    the ICL score by ablating the induction head and another head.
    """
    rng = np.random.default_rng(seed)
    readings = []
    for step in STEPS:
        made = step / STEPS[-1] if drift else risen(step)
        after = max(0.0, step - 900) / (STEPS[-1] - 900)
        attends = 0.03 + 0.01 * rng.random((PROMPTS, len(HEADS)))
        attends[:, 2] += height * made + 0.02 * rng.normal(size=PROMPTS)
        icl = learns * made + late * after
        readings.append(
            Reading(
                step=step,
                loss=_losses(rng, icl),
                repeat=4.0 - made + 0.1 * rng.random(PROMPTS),
                attends=dict.fromkeys(("induction", "previous_token", "bos"), attends),
                null=dict.fromkeys(("induction", "previous_token", "bos"), 0.03 + 0.01 * rng.random(attends.shape)),
                raised=made + 0.1 * rng.normal(size=attends.shape),
                ablated=np.stack([[_losses(rng, icl - made * undone[head != 2]) for head in range(len(HEADS))]]),
                cut=np.stack([attends[:, 2], *(attends[:, 2] - made * lost_ for lost_ in cut)]),
            )
        )
    kinds = dict(zip(HEADS, (KINDS[1], KINDS[2], KINDS[0], KINDS[2]), strict=True))
    chosen = Chosen(HEADS, kinds, HEADS, Circuit((HEADS[2],), HEADS[0], HEADS[1]))
    suite: Any = SimpleNamespace(name="one", steps=STEPS, last=STEPS[-1])
    return Read(suite, chosen, tuple(readings))


def _losses(rng: np.random.Generator, icl: float) -> Array:
    """Losses of texts that fall by `icl` nats from the early position to the late one."""
    slope = np.linspace(0, 1, LENGTH)
    noise: Array = 0.1 * rng.normal(size=(TEXTS, LENGTH))
    return 4.0 - icl * slope + noise


def asked(each: Read) -> tuple[Context[PhaseSettings], ChangePoint]:
    """A context that knows the change point of this training."""
    point = change_point(np.array(STEPS, np.float64), each.highest("induction"))
    ctx: Any = Context(SETTINGS, ())
    ctx._known[points] = {"one": {"prefix matching": point}}
    return ctx, point


def _changes(seed: int, effect: float) -> Claim:
    """Nearest: it rises as a drift. False: it does not rise."""
    each = training(seed, height=0.0 if effect < 0 else 0.7, drift=effect == 0)
    return changed(each, asked(each)[1])


def _together(seed: int, effect: float) -> Claim:
    """Nearest: half of the improvement comes later. False: nearly all of it does."""
    learns, late = {1.0: (1.0, 0.0), 0.0: (0.44, 0.56), -1.0: (0.1, 0.9)}[effect]
    each = training(seed, learns=learns, late=late)
    return together(*reversed_(each))


def reversed_(each: Read) -> tuple[Any, Read, ChangePoint]:
    ctx, point = asked(each)
    return ctx, each, point


def _constant(seed: int, effect: float) -> Claim:
    """Nearest: it moves by the margin. False: by much more."""
    each = training(seed, late={1.0: 0.0, 0.0: 0.1, -1.0: 0.6}[effect])
    return constant(*reversed_(each))


def _two_heads(seed: int, effect: float) -> Claim:
    """Nearest: another head's path costs as much, but for the margin. False: it costs more."""
    each = training(seed, cut={1.0: (0.5, 0.0), 0.0: (0.5, 0.4), -1.0: (0.0, 0.5)}[effect])
    assert len(CASES) == 3
    ctx, _ = asked(each)
    return reads(ctx, each)


def _rests(seed: int, effect: float) -> Claim:
    """Nearest: another head undoes as much, but for the margin. False: more."""
    each = training(seed, undone={1.0: (0.6, 0.0), 0.0: (0.6, 0.55), -1.0: (0.0, 0.6)}[effect])
    ctx, _ = asked(each)
    return rests(ctx, each, lost(ctx, each))


def _earlier(seed: int, effect: float) -> Claim:
    """Nearest: at the same time."""
    rng = np.random.default_rng(seed)
    sides = [
        [ChangePoint(True, midpoint=float(np.exp(mean + 0.1 * rng.normal())), p_none=0.0) for _ in range(6)]
        for mean in (6.0, 6.0 + effect)
    ]
    return earlier(*sides)


def _edges_needed(seed: int, effect: float) -> Claim:
    """Nearest: the margin is missing."""
    rng = np.random.default_rng(seed)
    plain = -1.0 + 0.1 * rng.normal(size=6)
    without = -1.0 + {1.0: 0.8, 0.0: 0.1, -1.0: -0.5}[effect] + 0.1 * rng.normal(size=6)
    return edges_needed(without.tolist(), plain.tolist())


CASES_ = {
    "changes": _changes,
    "together": _together,
    "constant": _constant,
    "two_heads": _two_heads,
    "rests": _rests,
    "earlier": _earlier,
    "edges_needed": _edges_needed,
}
PHASE_CHANGE = tuple(Case("phase-change", name, "simulated trainings", make) for name, make in CASES_.items())
