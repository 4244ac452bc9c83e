"""Once heads are ablated, which later heads grow, and what does the rest of the model make up for?

In: the rounds of iterative ablation, and the heads that matter most for the answer. Out: how much more every later
head attends from the final position to the examples' labels and inputs, and writes on the answer, once newly ablated
heads are gone; the self-repair of each important head (McGrath et al. 2023, Rushing & Nanda 2024); and the claim
that a backup head grows. A head that only stops writing against the answer is no backup: its suppression is released.
Part of the growth is what any ablation does to later attention: what grows as much on the same prompts with shuffled
labels, where there is no task to take over, is no backup either.
"""

from collections.abc import Callable, Mapping, Sequence
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
from headscope.studies.redundancy.does_the_task import source_answered
from headscope.studies.redundancy.experiment import Ctx, Experiment, Heads, experiment
from headscope.studies.redundancy.rounds import rounds
from headscope.studies.self_repair import backup_growth, released, self_repair_of, unserved_direct_effects
from headscope.sweeps.self_repair import compensation, direct_effects
from headscope.tables import Column, Quantity, Table
from headscope.tasks.source_and_target import CONTROLS, EXAMPLES, TransferPrompts, telling_alone
from headscope.tasks.split import Split

# So many heads are listed for each ablation and kind of growth.
GROWN_HEADS = 3
LABELS, INPUTS, WRITING = "attention_to_labels", "attention_to_inputs", "direct_effect"
RELEASE = "released_suppression"
SHARE = Quantity("attention", "from the final position to all of these tokens", "share", within=(0.0, 1.0))
LOGITS = Quantity("direct_effect", "what the head writes on the answer's logit", "logits")
# What may grow, and the margin up to which growth is none; the last is no growth of a backup.
KINDS = {LABELS: (SHARE, 0.1), INPUTS: (SHARE, 0.1), WRITING: (LOGITS, 0.5), RELEASE: (LOGITS, 0.5)}
CHANGES: dict[str, Callable[[Samples, Samples], Samples]] = {WRITING: backup_growth, RELEASE: released}
NEWLY = Column("ablated", pl.String, "newly ablated heads; growth is against the round before, or nothing ablated")
GROWN = Column("grown", pl.String, "head, and what is ablated")
LATER = Quantity("compensation", "what all that comes after the head writes more, at clean scales", "logits")


@dataclass(frozen=True, eq=False)
class Growth:
    """One kind of the later heads that grew most on the selection half: axes ablated, layer, head.

    `shuffled` is how much they grew with labels shuffled.
    """

    kind: str
    before: Split[Samples]
    after: Split[Samples]
    shuffled: Split[Samples]

    @property
    def margin(self) -> float:
        return KINDS[self.kind][1]

    @property
    def change(self) -> Split[Samples]:
        return Split(*(grown(self.kind, *each) for each in zip(self.before, self.after, strict=True)))

    @property
    def beyond(self) -> Split[Samples]:
        """How much more they grew than with labels shuffled, paired by prompt."""
        return Split(*(own - null for own, null in zip(self.change, self.shuffled, strict=True)))

    def of(self, heads: Sequence[str], ablated: str) -> "Growth":
        """These heads alone, with the name of what is ablated."""
        sides = (self.before, self.after, self.shuffled)
        listed = (side.map(lambda half: half.only(head=list(heads)).labelled(NEWLY, ablated)) for side in sides)
        return Growth(self.kind, *listed)

    @property
    def backups(self) -> list[Coordinates]:
        """The cells that surely grew by more than the margin beyond shuffled labels: all of all kinds at once."""
        above, level = self.beyond.estimation, 1 - 0.05 / (len(KINDS) - 1)
        sure = above.together(above=self.margin, level=level).at_least > self.margin
        return [cell for cell, each in zip(above.cells, sure, strict=True) if each and self.kind != RELEASE]


def grown(kind: str, before: Samples, after: Samples) -> Samples:
    """How much more than before; of direct effects what is written, or no longer suppressed."""
    change = CHANGES[kind](before, after) if kind in CHANGES else after - before
    return change.measured_as(replace(change.quantity, name="growth", meaning="how much more than before"))


def growth(ctx: Ctx) -> dict[str, Growth]:
    """By kind, from each round to the next, and from nothing to the ablation of the head that matters most."""
    model, tried, top = ctx.model, ctx.once(experiment), ctx.once(important_heads)[:1]
    pairs = [(old.patched.heads, new.patched.heads, new.new) for old, new in pairwise(ctx.once(rounds))]
    parts: dict[str, list[Growth]] = {}
    compared = [*dict.fromkeys([*pairs, *([((), top, top)] if top else [])])]
    if not compared:
        return {}
    states = [*dict.fromkeys(heads for before, after, _ in compared for heads in (before, after))]
    shown, shuffled = (
        tried.prompts.map(partial(reads_and_writes, tried, of=of, states=states)) for of in (EXAMPLES, CONTROLS[0])
    )
    for before, after, new in compared:
        later = [str(head) for head in model.heads if head.layer > min(new).layer and head not in set(after)]
        for kind in shown.selection[before] if later else ():
            old, now, was, became = (
                Split(*(half[heads][kind] for half in each))
                for each in (shown, shuffled)
                for heads in (before, after)
            )
            every = Growth(kind, old, now, Split(*(grown(kind, *each) for each in zip(was, became, strict=True))))
            most = most_grown(every.beyond.selection, later)
            parts.setdefault(kind, []).append(every.of(most, set_name(model, after)))
    return {kind: _stacked(listed) for kind, listed in parts.items()}


def most_grown(change: Samples, later: list[str], count: int = GROWN_HEADS) -> list[str]:
    """The few of these heads whose mean change is largest; for selection."""
    among = change.only(head=later)
    return [among.cells[index][-1] for index in np.argsort(-among.mean, kind="stable")[:count]]


def _stacked(parts: list[Growth]) -> Growth:
    sides = ([getattr(each, name) for each in parts] for name in ("before", "after", "shuffled"))
    return Growth(parts[0].kind, *(Split(*(stacked(half) for half in zip(*side, strict=True))) for side in sides))


def reads_and_writes(
    tried: Experiment, half: TransferPrompts, of: str, states: Sequence[Heads]
) -> dict[Heads, dict[str, Samples]]:
    """Of every head, with each of these sets of heads ablated: attention from the final position, direct effect.

    On sources of one kind.
    """
    model, prompts, read = tried.model, half.sources[of], {}
    for heads in states:
        reading = MassReading([last_to(prompts, role) for role in ("y", "x")])
        model.read(prompts, [reading], interventions=tried.edits(heads))
        values = {kind: reading.over_layers(index)[0] for index, kind in enumerate((LABELS, INPUTS))}
        read[heads] = {kind: over_heads(SHARE, model.heads, each) for kind, each in values.items()}
    if unserved_direct_effects(model):
        return read
    edits = [edit for heads in states for edit in tried.edits(heads)]
    followed = direct_effects(model, telling_alone(prompts).answered(), "readout", ablations=edits)
    ablated = iter(followed.ablated)
    for heads in states:
        written = next(ablated) if heads else followed.clean
        is_head = torch.tensor([component.head is not None for component in written.components])
        effect = over_heads(LOGITS, model.heads, written.direct[:, is_head])
        read[heads] |= {WRITING: effect, RELEASE: effect}
    return read


def backups(needs: Sequence[Test], growths: Mapping[str, Growth]) -> Claim:
    """Judged at the head, kind and ablation that grew most on the selection half, in units of its margin."""
    statement = (
        "Backup heads grow: with heads ablated, a later one attends to examples or writes the answer more, and more "
        "than with shuffled labels."
    )
    why = "no head was ablated that has later heads"
    test = Test("growth of a later head", None, above=KINDS[LABELS][1], reason=why)
    if grow := {kind: each for kind, each in growths.items() if kind != RELEASE}:
        kind = max(grow, key=lambda each: grow[each].beyond.selection.mean.max() / grow[each].margin)
        selection, estimation = grow[kind].beyond
        best = selection.cells[int(selection.mean.argmax())]
        chosen = {axis.name: value for axis, value in zip(selection.axes, best, strict=True)}
        what = f"growth of {_words(kind)}, beyond shuffled labels"
        test = any_of(what, estimation.choosing(**chosen), above=grow[kind].margin)
    return claim("backups", statement, needs=needs, tests=[test], tables=[f"growth_of_{kind}" for kind in growths])


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
        null = each.shuffled.estimation
        beside.append(null.measured_as(replace(null.quantity, name="with_shuffled_labels")))
        title = f"Growth of {_words(kind)} of later heads"
        caption = f"Mean over source prompts; heads selected on others. Up to {each.margin} is no growth."
        labelled = joined(change, GROWN, "head", "ablated")
        tables.append(table(change, name, beside=beside))
        figures.append(bars(labelled, "grown", name=name, title=title, caption=caption))
    unserved = unserved_direct_effects(ctx.model)
    notes = [f"No direct effects: {unserved}"] if unserved else []
    return Part(
        tables=[*tables, *_repairs(ctx)],
        claims=[backups(source_answered(ctx), growths)],
        figures=figures,
        notes=notes,
    )
