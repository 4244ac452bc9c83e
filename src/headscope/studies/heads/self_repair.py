"""When a head is ablated, does a later component write more of what it wrote?

In: a few heads, each ablated by zero. Out: the direct effect of every head and MLP on the logit of the token that
follows, before and after, and how much of the damage is made up for (McGrath et al. 2023; Rushing & Nanda 2024). A
backup writes *more of what the ablated head wrote*; one that writes the same as before is redundant, not a backup.
"""

from headscope.evidence import any_of, bars, claim, table
from headscope.interventions import zero
from headscope.measures.samples import Samples
from headscope.results.study import Claim, Figure
from headscope.studies.context import Part
from headscope.studies.heads.experiment import PREDICTABLE, Ctx, averaged, most_damaging, named_heads, prompts
from headscope.studies.self_repair import (
    ABLATED,
    COMPONENT,
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
SHARE = Quantity("compensated", "change as a share of the ablated head's direct effect", "share")


def self_repair(ctx: Ctx) -> Part:
    """What do the other components write when a head is ablated?"""
    if unserved := unserved_direct_effects(ctx.model):
        return Part(claims=[backup(None, None, "direct effects are not served here")], notes=[unserved])
    heads, stage = heads_to_follow(ctx), ctx.stage("following ablations through the model")
    edits = [zero(head) for head in heads]
    followed = prompts(ctx).map(
        lambda half: direct_effects(ctx.model, half.repeated, PREDICTABLE, ablations=edits, progress=stage)
    )
    effects = followed.map(lambda half: effects_before_and_after(ctx.model, heads, half))
    repair = self_repair_of(heads, followed.estimation)
    total, *beside = repair.values()
    tables = [
        table(each["change"], name, beside=[each["before"], each["after"]])
        for name, each in zip(("direct_effects_selection", "direct_effects"), effects, strict=True)
    ]
    change = effects.map(lambda each: each["change"])
    note = (
        "Direct effects are taken at the norms' scales of the clean run, before and after an ablation, and refer to "
        "logits before a soft-cap; what rescaling does is the column by_norms of the table self_repair."
    )
    return Part(
        tables=[*tables, table(total, "self_repair", beside=beside)],
        claims=[backup(change, repair["direct_effect"])],
        figures=_figures(change.estimation, averaged(ctx)),
        notes=[note],
    )


def heads_to_follow(ctx: Ctx) -> list[Head]:
    """The most damaging head, the strongest induction and previous-token heads, then the next damaging."""
    order, named = ctx.once(most_damaging), ctx.once(named_heads)
    strongest = [head for kind in ("induction", "previous_token") for head in named.get(kind, ())[:1]]
    return list(dict.fromkeys([*order[:1], *strongest, *order[1:]]))[: ctx.settings.followed]


def backup(change: Split[Samples] | None, direct: Samples | None, unserved: str = "") -> Claim:
    """Whether some head has a backup: `change` [prompt, component] on both halves, `direct` [prompt, ablated]."""
    shares = {}
    if change is not None and direct is not None:
        for head, wrote in zip(direct.coordinates("ablated"), direct.mean, strict=True):
            later = change.selection.only(ablated=head, later=True)
            most = (later if wrote > 0 else -later).best("component")
            if abs(wrote) >= NEAR_ZERO_LOGITS and most is not None:
                shares[head, most] = change.estimation.only(ablated=head, component=most).values[:, 0] / wrote
    none = f"no followed head writes {NEAR_ZERO_LOGITS} logits itself and has components after it"
    compensated = Samples.of(SHARE, (ABLATED, COMPONENT), shares) if shares else None
    return claim(
        "backup",
        "When a head is ablated, a later head or MLP (a backup) compensates for over 10% of its direct effect.",
        tests=[any_of("compensated share", compensated, above=MARGIN, reason=unserved or none)],
        tables=[] if unserved else ["direct_effects", "direct_effects_selection", "self_repair"],
    )


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
