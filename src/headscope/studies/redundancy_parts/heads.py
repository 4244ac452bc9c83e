"""The heads of the task: which matter for A's answer, which stand in for each other, which grow once others are cut.

In: the bench of the study and cuts. Out: damages, statistics over sets of heads, self-repair, attention to the shown
numbers, and growth from one cut to the next, per prompt. A *backup* writes or looks *more* once something is cut:
what a later layer reads again in the same way is none. Heads are chosen on the selection half and estimated on the
other. Damage is a fall of the logit of A's answer above the vocabulary's mean, the head's output replaced by its mean
over label-shuffled prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headscope.detectors.pairs import KeySets
from headscope.detectors.reading import MassReading
from headscope.errors import UnservedModel
from headscope.interventions import targets_of
from headscope.measures import interval, next_logit
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.studies.redundancy_parts.cuts import Heads
from headscope.studies.redundancy_parts.peeling import Bench, Progress
from headscope.studies.redundancy_parts.prompts import Written
from headscope.sweeps import Cell, each_head
from headscope.sweeps.cell_values import damages
from headscope.sweeps.redundancy import Options, Redundancy, head_redundancy
from headscope.sweeps.self_repair import AblatedEffects, direct_effects
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head, staged

# A head matters if cutting it surely lowers the answer's logit by more than this.
MATTERS_LOGITS = 0.1
# Growth up to here is none: of a share of attention, and of what a head writes on the answer.
GREW_SHARE, GREW_LOGITS = 0.1, 0.5
MARGINS = {"attention to y": GREW_SHARE, "attention to x": GREW_SHARE, "direct effect": GREW_LOGITS}

Looks = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Growth:
    """One quantity of every head before and after a cut: [prompt, head] on both halves."""

    quantity: str
    chosen_on: tuple[Tensor, Tensor]
    found: tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Damage:
    """Damage of every head, [head, prompt] on both halves, in logits, in the order of `model.heads`."""

    chosen_on: Tensor
    found: Tensor


def damage_of_heads(bench: Bench, progress: Progress) -> Damage:
    cells = each_head(bench.scissors.by_mean(), bench.model.heads)
    stage = staged(progress, "cutting single heads")
    halves = [
        damages(bench.model, half.a, cells, next_logit("readout"), progress=stage)
        for half in (bench.selection, bench.estimation)
    ]
    return Damage(*halves)


def that_matter(model: Model, damage: Damage, most: int) -> Heads:
    """The heads that surely matter on the selection half, worst first."""
    found = interval(damage.chosen_on.T.numpy())
    order = sorted(range(len(model.heads)), key=lambda index: -found.mean[index])
    return tuple(model.heads[index] for index in order if found.low[index] > MATTERS_LOGITS)[:most]


def damage_together(bench: Bench, heads: Heads) -> Tensor:
    """Damage of cutting all of these heads, [prompt]."""
    cut = replace(bench.scissors.by_mean(), targets=targets_of(heads))
    return damages(bench.model, bench.estimation.a, [Cell((cut,))], next_logit("readout"))[0]


def stand_ins(bench: Bench, heads: Heads, progress: Progress) -> Redundancy | None:
    """Statistics over sets of these heads; None for fewer than two."""
    if len(heads) < 2:
        return None
    options = Options(ablation=bench.scissors.by_mean(), measure=next_logit("readout"))
    stage = staged(progress, "cutting sets of heads")
    return head_redundancy(bench.model, bench.estimation.a, heads, options, progress=stage)


def effects(bench: Bench, written: Written, cuts: Sequence[Edit]) -> AblatedEffects | None:
    """Direct effects on A's answer, clean and under each cut; None where the model has none."""
    if unserved_direct_effects(bench.model):
        return None
    return direct_effects(bench.model, written.a, "readout", ablations=cuts)


def unserved_direct_effects(model: Model) -> str:
    """Why this model has no direct effects; empty where it has."""
    try:
        model.require_direct_effects()
    except UnservedModel as error:
        return str(error)
    return ""


def growth(bench: Bench, before: Heads, after: Heads) -> list[Growth]:
    """Every head's attention to shown numbers and its direct effect, before and after a cut."""
    halves = (bench.selection, bench.estimation)
    cuts = [bench.scissors.cut(heads) for heads in (before, after)]
    found = []
    looks = [[attention_to_pairs(bench.model, half.asked, cut) for cut in cuts] for half in halves]
    for role in ("y", "x"):
        pairs = [(each[0][role], each[1][role]) for each in looks]
        found.append(Growth(f"attention to {role}", *pairs))
    followed = [effects(bench, half, [edit for cut in cuts for edit in cut]) for half in halves]
    if None not in followed:
        pairs = []
        for each in followed:
            assert each is not None
            under = [each.clean, *each.ablated] if not before else list(each.ablated)
            is_head = [component.head is not None for component in each.clean.components]
            old, new = (run.direct[:, torch.tensor(is_head)] for run in under[:2])
            pairs.append((old, new))
        found.append(Growth("direct effect", *pairs))
    return found


def attention_to_pairs(model: Model, prompts: Prompts, cut: Sequence[Edit]) -> dict[str, Tensor]:
    """Share of the last position's attention on all shown y, and on all shown x; [prompt, head] each."""
    reading = MassReading([_keys(prompts, role, "readout") for role in ("y", "x")])
    model.read(prompts, [reading], interventions=list(cut))
    return {role: _heads(reading.mass, index) for index, role in enumerate(("y", "x"))}


def attention_to_earlier_y(model: Model, prompts: Prompts) -> Looks:
    """Share of attention from the token before each y to all earlier y, and on as many other keys: [prompt, head]."""
    reading = MassReading([_keys(prompts, "y", "before_y")])
    model.read(prompts, [reading])
    return _heads(reading.mass, 0), _heads(reading.other, 0)


def _keys(prompts: Prompts, keys: str, queries: str) -> KeySets:
    """Earlier positions of one role, for the queries of another and for the last position; others are not judged."""
    positions = torch.arange(prompts.longest)
    earlier = positions[None, :, None] > positions[None, None, :]
    judged = prompts.where(queries) | prompts.where("readout")
    pairs = earlier & judged[:, :, None] & prompts.where(keys)[:, None, :]
    return KeySets(pairs, judged & pairs.any(-1))


def _heads(by_layer: dict[int, Tensor], index: int) -> Tensor:
    """[prompt, head] over all layers from readings [set, prompt, head] of each."""
    return torch.cat([by_layer[layer][index] for layer in sorted(by_layer)], dim=1).double()


def later_than(model: Model, new: Heads, cut: Heads) -> list[Head]:
    """The heads that can see a new cut and are not cut themselves."""
    first = min((head.layer for head in new), default=model.n_layers)
    return [head for head in model.heads if head.layer > first and head not in set(cut)]
