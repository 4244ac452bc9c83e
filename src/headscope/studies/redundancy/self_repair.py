"""Once heads are ablated, which later heads grow, and what does the rest of the model make up for?

In: the rounds of iterative ablation, and the heads that matter most for the answer. Out: how much more every later
head attends from the final position to the examples' labels and inputs, and writes on the answer, once newly ablated
heads are gone; the self-repair of each important head (McGrath et al. 2023, Rushing & Nanda 2024); and the claim
that a backup head grows. Part of the growth may be what any ablation does to later attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import polars as pl
import torch

from headscope.detectors.reading import MassReading
from headscope.detectors.roles import last_to
from headscope.evidence import Test, any_of, bars, claim, table
from headscope.evidence.figures import joined
from headscope.interventions.named_heads import set_name
from headscope.measures.samples import Coordinates, Samples, over_heads, stacked
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.redundancy.damage import important_heads
from headscope.studies.redundancy.experiment import Ctx, Experiment, Heads, experiment
from headscope.studies.redundancy.rounds import rounds
from headscope.studies.self_repair import self_repair_of, unserved_direct_effects
from headscope.sweeps.self_repair import compensation, direct_effects
from headscope.tables import Column, Quantity, Table
from headscope.tasks.source_and_target import TransferPrompts
from headscope.tasks.split import Split

# So many heads are listed for each ablation and kind of growth.
GROWN_HEADS = 3
LABELS, INPUTS, WRITING = "attention_to_labels", "attention_to_inputs", "direct_effect"
SHARE = Quantity("attention", "from the final position to all of these tokens", "share", within=(0.0, 1.0))
LOGITS = Quantity("direct_effect", "what the head writes on the answer's logit", "logits")
# What may grow, and the margin up to which growth is none.
KINDS = {LABELS: (SHARE, 0.1), INPUTS: (SHARE, 0.1), WRITING: (LOGITS, 0.5)}
NEWLY = Column("ablated", pl.String, "newly ablated heads; growth is against the round before, or nothing ablated")
GROWN = Column("grown", pl.String, "head, and what is ablated")
LATER = Quantity("compensation", "what all that comes after the head writes more, at clean scales", "logits")


@dataclass(frozen=True, eq=False)
class Growth:
    """One kind of the later heads that grew most on the selection half: axes ablated, layer, head."""

    before: Split[Samples]
    after: Split[Samples]
    margin: float

    @property
    def change(self) -> Split[Samples]:
        selection, estimation = (new - old for new, old in zip(self.after, self.before, strict=True))
        grown = replace(selection.quantity, name="growth", meaning="how much more than before")
        return Split(selection.measured_as(grown), estimation.measured_as(grown))

    @property
    def backups(self) -> list[Coordinates]:
        """The cells that clearly grew by more than the margin, each by its own bound."""
        grown = self.change.estimation
        sure = grown.estimate().low > self.margin
        return [cell for cell, each in zip(grown.cells, sure, strict=True) if each]


def growth(ctx: Ctx) -> dict[str, Growth]:
    """By kind, from each round to the next, and from nothing to the ablation of the head that matters most."""
    model, tried, top = ctx.model, ctx.once(experiment), ctx.once(important_heads)[:1]
    pairs = [(old.patched.heads, new.patched.heads, new.new) for old, new in pairwise(ctx.once(rounds))]
    parts: dict[str, list[Growth]] = {}
    for before, after, new in dict.fromkeys([*pairs, *([((), top, top)] if top else [])]):
        later = [str(head) for head in model.heads if head.layer > min(new).layer and head not in set(after)]
        old, now = (tried.prompts.map(partial(reads_and_writes, tried, heads=h)) for h in (before, after))
        for kind in now.selection if later else ():
            most = most_grown(now.selection[kind] - old.selection[kind], later)
            name = set_name(model, after)
            of = [Split(*(v[kind].only(head=most).labelled(NEWLY, name) for v in s)) for s in (old, now)]
            parts.setdefault(kind, []).append(Growth(of[0], of[1], KINDS[kind][1]))
    return {kind: _stacked(listed) for kind, listed in parts.items()}


def most_grown(change: Samples, later: list[str], count: int = GROWN_HEADS) -> list[str]:
    """The few of these heads whose mean change is largest; for selection."""
    among = change.only(head=later)
    return [among.cells[index][-1] for index in np.argsort(-among.mean, kind="stable")[:count]]


def _stacked(parts: list[Growth]) -> Growth:
    sides = [each.before for each in parts], [each.after for each in parts]
    before, after = (Split(*(stacked(half) for half in zip(*side, strict=True))) for side in sides)
    return Growth(before, after, parts[0].margin)


def reads_and_writes(tried: Experiment, half: TransferPrompts, heads: Heads) -> dict[str, Samples]:
    """Of every head under an ablation: attention from the final position to labels and inputs, direct effect."""
    model, edits = tried.model, tried.edits(heads)
    reading = MassReading([last_to(half.source, role) for role in ("y", "x")])
    model.read(half.source, [reading], interventions=edits)
    values = {kind: reading.over_layers(index)[0] for index, kind in enumerate((LABELS, INPUTS))}
    if not unserved_direct_effects(model):
        followed = direct_effects(model, half.answered, "readout", ablations=edits)
        written = (*followed.ablated, followed.clean)[0]
        is_head = torch.tensor([component.head is not None for component in written.components])
        values[WRITING] = written.direct[:, is_head]
    return {kind: over_heads(KINDS[kind][0], model.heads, each) for kind, each in values.items()}


def backups(growths: Mapping[str, Growth]) -> Claim:
    """Judged at the head, kind and ablation that grew most on the selection half, in units of its margin."""
    statement = (
        "Backup heads grow: with heads ablated, a later one attends more to examples or writes the answer more."
    )
    why = "no head was ablated that has later heads"
    test = Test("growth of a later head", None, above=KINDS[LABELS][1], reason=why)
    if growths:
        kind = max(growths, key=lambda each: growths[each].change.selection.mean.max() / growths[each].margin)
        selection, estimation = growths[kind].change
        best = selection.cells[int(selection.mean.argmax())]
        chosen = {axis.name: value for axis, value in zip(selection.axes, best, strict=True)}
        test = any_of(f"growth of {_words(kind)}", estimation.choosing(**chosen), above=growths[kind].margin)
    return claim("backups", statement, tests=[test], tables=[f"growth_of_{kind}" for kind in growths])


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _repairs(ctx: Ctx) -> list[Table]:
    """Self-repair of each important head, and what comes after it alone (the Hydra effect); none where unserved."""
    model, tried, heads = ctx.model, ctx.once(experiment), ctx.once(important_heads)
    if not heads or unserved_direct_effects(model):
        return []
    edits = [tried.ablation([head], "zero") for head in heads]
    followed = direct_effects(model, tried.prompts.estimation.answered, "readout", ablations=edits)
    repair, *beside = self_repair_of(heads, followed).values()
    values = {
        str(head): compensation(model, followed.clean, ablated, head.layer)
        for head, ablated in zip(heads, followed.ablated, strict=True)
        if (str(head),) not in repair.reasons
    }
    later = [table(Samples.of(LATER, repair.axes, values), "compensation")] if values else []
    return [table(repair, "self_repair", beside=beside), *later]


def self_repair(ctx: Ctx) -> Part:
    """Who makes up for ablated heads?"""
    growths, tables, figures = ctx.once(growth), [], []
    for kind, each in growths.items():
        name, change, quantity = f"growth_of_{kind}", each.change.estimation, KINDS[kind][0]
        sides = (("before", each.before.estimation), ("after", each.after.estimation))
        beside = [values.measured_as(replace(quantity, name=when)) for when, values in sides]
        title = f"Growth of {_words(kind)} of later heads"
        caption = f"Mean over source prompts; heads selected on others. Up to {each.margin} is no growth."
        labelled = joined(change, GROWN, "head", "ablated")
        tables.append(table(change, name, beside=beside))
        figures.append(bars(labelled, "grown", name=name, title=title, caption=caption))
    unserved = unserved_direct_effects(ctx.model)
    notes = [f"No direct effects: {unserved}"] if unserved else []
    return Part(tables=[*tables, *_repairs(ctx)], claims=[backups(growths)], figures=figures, notes=notes)
