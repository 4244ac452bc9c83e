"""When a head is ablated, does a later component write more of what it wrote?

In: a few heads, each ablated by zero. Out: the direct effect of every head and MLP on the logit of the token that
follows, before and after, and how much of the damage is made up for (McGrath et al. 2023; Rushing & Nanda 2024). A
backup writes *more of what the ablated head wrote*; one that writes the same as before is redundant, not a backup,
and one that only stops writing against it is released suppression (a column of its own).
"""

from collections.abc import Sequence

import numpy as np

from headscope.evidence import any_of, bars, claim, table
from headscope.interventions import zero
from headscope.measures.samples import Samples
from headscope.results.study import Claim, Figure
from headscope.studies.context import Part
from headscope.studies.head_sets import FLOOR
from headscope.studies.heads.experiment import JUDGED, Ctx, averaged, named_heads, prompts
from headscope.studies.heads.screening import most_damaging
from headscope.studies.self_repair import (
    NEAR_ZERO_LOGITS,
    effects_before_and_after,
    self_repair_of,
    unserved_direct_effects,
)
from headscope.sweeps.self_repair import direct_effects
from headscope.tables import Quantity
from headscope.tasks.split import Split
from headscope.vocabulary import Head

MARGIN = 0.1
MOST_COMPONENTS = 12  # beyond so many, bars are no longer read; the table has them all
BEYOND = Quantity("beyond", "growth minus a tenth of the ablated head's direct effect", "logits")


def self_repair(ctx: Ctx) -> Part:
    """What do the other components write when a head is ablated?"""
    if unserved := unserved_direct_effects(ctx.model):
        return Part(claims=[backup(None, None, "direct effects are not served here")], notes=[unserved])
    heads, stage = heads_to_follow(ctx), ctx.stage("following ablations through the model")
    edits = [zero(head) for head in heads]
    followed = prompts(ctx).map(
        lambda half: direct_effects(ctx.model, half.repeated, JUDGED, ablations=edits, progress=stage)
    )
    effects = followed.map(lambda half: effects_before_and_after(ctx.model, heads, half))
    repair = followed.map(lambda half: self_repair_of(heads, half))
    total, *beside = repair.estimation.values()
    tables = [
        table(
            each["change"], name, beside=[each["before"], each["after"]], bounded=[each["growth"], each["released"]]
        )
        for name, each in zip(("direct_effects_selection", "direct_effects"), effects, strict=True)
    ]
    note = (
        "Direct effects are taken at the norms' scales of the clean run, before and after an ablation, and refer to "
        "logits before a soft-cap; what rescaling does is the column by_norms of the table self_repair."
    )
    return Part(
        tables=[*tables, table(total, "self_repair", beside=beside)],
        claims=[backup(effects.map(lambda each: each["growth"]), repair.map(lambda each: each["direct_effect"]))],
        figures=_figures(effects.estimation["change"], averaged(ctx)),
        notes=[note],
    )


def heads_to_follow(ctx: Ctx) -> list[Head]:
    """The most damaging head, the strongest (anti-)induction and previous-token heads, then the next damaging."""
    order, named = ctx.once(most_damaging), ctx.once(named_heads)
    kinds = ("induction", "anti_induction", "previous_token")
    strongest = [head for kind in kinds for head in named.get(kind, ())[:1]]
    return list(dict.fromkeys([*order[:1], *strongest, *order[1:]]))[: ctx.settings.followed]


def backup(growth: Split[Samples] | None, direct: Split[Samples] | None, unserved: str = "") -> Claim:
    """Whether some head has a backup: `growth` [prompt, component] and `direct` [prompt, ablated] on both halves."""
    beyond, none = None, f"no followed head writes {NEAR_ZERO_LOGITS} logits itself and has components after it"
    if growth is not None and direct is not None:
        selection, estimation = (
            _beyond(grown, wrote, heads=_that_write(direct.selection))
            for grown, wrote in zip(growth, direct, strict=True)
        )
        if len(selection):
            best = selection.cells[int(selection.mean.argmax())]
            beyond = estimation.choosing(**dict(zip((axis.name for axis in selection.axes), best, strict=True)))
    what = f"what is written more, minus {MARGIN:.0%} of the ablated head's direct effect"
    return claim(
        "backup",
        "When a head is ablated, a later head or MLP (a backup) writes over 10% more of what it wrote.",
        tests=[any_of(what, beyond, above=FLOOR, reason=unserved or none)],
        tables=[] if unserved else ["direct_effects", "direct_effects_selection", "self_repair"],
    )


def _that_write(direct: Samples) -> list[str]:
    """Of the ablated heads those that write something themselves: of the others nothing can be taken over."""
    return [cell[0] for cell, mean in zip(direct.cells, direct.mean, strict=True) if abs(mean) >= NEAR_ZERO_LOGITS]


def _beyond(growth: Samples, direct: Samples, heads: Sequence[str]) -> Samples:
    """Growth of later components minus a share of what the ablated head wrote, which is as uncertain: by prompt."""
    later = growth.only(ablated=list(heads), later=True)
    wrote = {head: values.values[:, 0] for head, values in direct.by("ablated").items()}
    share = {cell: MARGIN * np.sign(wrote[cell[0]].mean()) * wrote[cell[0]] for cell in later.cells}
    values = {cell: later.values[:, place] - share[cell] for place, cell in enumerate(later.cells)}
    return Samples.of(BEYOND, later.axes, values, units=later.units)


def _figures(change: Samples, averaged_over: str) -> list[Figure]:
    """The later components that change most; none where nothing comes later."""
    later = change.only(later=True)
    size = {name: abs(each.mean).max() for name, each in later.by("component").items()}
    largest = sorted(size, key=lambda name: -size[name])[:MOST_COMPONENTS]
    if not largest:
        return []
    figure = bars(
        later.only(component=largest),
        "component",
        colour="ablated",
        name="direct_effects",
        title="Change of later direct effects when a head is ablated",
        caption="Change of the direct effect on the logit of the token that follows, of components after the ablated "
        f"head (the {MOST_COMPONENTS} that change most, at most). {averaged_over}",
    )
    return [figure]
