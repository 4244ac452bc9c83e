"""Claims of the heads study, simulated."""

import numpy as np
import torch

from headscope.detectors.copying import COPYING
from headscope.detectors.scores import ABOVE_NULL
from headscope.measures.samples import Samples, over_heads
from headscope.results.study import Claim
from headscope.studies.heads.induction_matters import matters
from headscope.studies.heads.joint_ablation import COUNT, EFFECT, INTERACTION, JOINT, LOGIT_DAMAGE, SUM, redundant
from headscope.studies.heads.patching import moves
from headscope.studies.heads.self_repair import backup
from headscope.studies.heads.which_heads import induction, presence
from headscope.studies.self_repair import ABLATED, AFTER, AXES, BEFORE, backup_growth
from headscope.sweeps.controls import AgainstRandom
from headscope.sweeps.residual_patching import AXES as PLACES
from headscope.sweeps.residual_patching import GAP, RECOVERED
from headscope.tables import Quantity
from headscope.tasks.split import Split
from headscope.vocabulary import Head
from tests.truth import Case

PROMPTS = 50
HEADS = [Head(layer, index) for layer in range(2) for index in range(4)]
DIRECT = Quantity("direct_effect", "the ablated head's own", "logits")


def attention(rng: np.random.Generator, *strongest: float) -> Samples:
    """Attention beyond the null: the first heads attend so much, the others not at all."""
    means = np.array([*strongest, *[0.0] * (len(HEADS) - len(strongest))])
    spread = 0.02 + 0.2 * np.sqrt(np.abs(means) * (1 - np.abs(means)))
    return over_heads(ABOVE_NULL, HEADS, np.clip(rng.normal(means, spread, (PROMPTS, len(HEADS))), -1, 1))


def an_induction_head(seed: int, effect: float) -> Claim:
    """The head with the pattern raises what follows, does not (but another one does), or lowers it."""
    rng = np.random.default_rng(seed)
    raised = np.array([1.5 * effect, 1.5 if effect >= 0 else 0.0, *[0.0] * (len(HEADS) - 2)])
    above = Split(*(attention(rng, 0.6) for _ in range(2)))
    return induction(
        above, Split(*(over_heads(COPYING, HEADS, rng.normal(raised, 0.3, (PROMPTS, len(HEADS)))) for _ in range(2)))
    )


def a_previous_token_head(seed: int, effect: float) -> Claim:
    """The strongest head attends clearly, at the margin, or not at all."""
    rng = np.random.default_rng(seed)
    return presence("previous_token", attention(rng, 0.1 + 0.3 * effect if effect >= 0 else 0.0))


def what_ablation_costs(seed: int, effect: float) -> Claim:
    """The group costs more than all sets, is one more random set, or helps."""
    rng = np.random.default_rng(seed)
    sets = rng.lognormal(-1.0, 0.5, 40)
    own = {1: 3.0, 0: rng.lognormal(-1.0, 0.5), -1: -0.5}[int(effect)]
    damage = rng.normal(np.array([own, *sets])[:, None], 0.2, (41, PROMPTS))
    drawn = tuple((Head(0, k), Head(0, k + 1)) for k in range(40))
    values = torch.from_numpy(damage)
    return matters(AgainstRandom((Head(1, 0), Head(1, 1)), values[0], drawn, values[1:], 40, "layers"))


def redundancy(seed: int, effect: float) -> Claim:
    """Jointly the heads cost twice the sum of single ablations, just what the margins allow, or the sum."""
    rng = np.random.default_rng(seed)
    single = rng.normal(2.0, 0.5, PROMPTS)
    extra = {1: single, 0: 0.1 * single + 0.1, -1: 0.0 * single}[int(effect)] + rng.normal(0, 0.3, PROMPTS)
    values = {JOINT: single + extra, SUM: single, INTERACTION: extra}
    cells = {(2, "1.0 1.1", name): each for name, each in values.items()}
    return redundant(Samples.of(LOGIT_DAMAGE, (COUNT, ABLATED, EFFECT), cells))


def information_moves(seed: int, effect: float) -> Claim:
    """Before layer 1 patching after the match recovers half of the gap, as much as the margin, or nothing."""
    rng = np.random.default_rng(seed)
    share = {1: 0.5, 0: 0.1, -1: 0.0}[int(effect)]

    def half() -> Samples:
        cells = {(layer, 6, "answer"): rng.normal(share * (layer == 1), 0.15, PROMPTS) for layer in range(3)}
        return Samples.of(RECOVERED, PLACES, cells, over="pairs")

    return moves(Split(half(), half()), Samples.one(GAP, rng.normal(3.0, 1.0, PROMPTS), over="pairs"))


def a_backup(seed: int, effect: float) -> Claim:
    """A later head takes over half of the work, or none: a suppressor lets go, which is no backup, or holds on."""
    rng = np.random.default_rng(seed)

    def half() -> tuple[Samples, Samples]:
        wrote = rng.normal(2.0, 0.3, PROMPTS)
        before = {"1.0": rng.normal(0.2, 0.2, PROMPTS), "1.1": rng.normal(-2.0, 0.4, PROMPTS)}
        after = {
            "1.0": before["1.0"] + (0.5 * wrote if effect > 0 else 0.0) + rng.normal(0, 0.1, PROMPTS),
            "1.1": before["1.1"] if effect < 0 else rng.normal(0.0, 0.2, PROMPTS),
        }
        sides = [
            Samples.of(quantity, AXES, {("0.0", name, 1, True): each for name, each in values.items()})
            for quantity, values in ((BEFORE, before), (AFTER, after))
        ]
        return backup_growth(*sides), Samples.of(DIRECT, (ABLATED,), {"0.0": wrote})

    both = Split(half(), half())
    return backup(both.map(lambda each: each[0]), both.map(lambda each: each[1]))


CASES: tuple[Case, ...] = tuple(
    Case("heads", claim, by, make)
    for claim, by, make in (
        ("induction", "attention beyond the null and signed raise of eight heads", an_induction_head),
        ("previous_token", "attention beyond the null of eight heads", a_previous_token_head),
        ("induction_matters", "damage of a group and of forty random sets", what_ablation_costs),
        ("redundant", "joint and single damages", redundancy),
        ("moves", "shares recovered by layer", information_moves),
        ("backup", "direct effects before and after", a_backup),
    )
)
